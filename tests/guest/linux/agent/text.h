// Words in, lines out.
#pragma once

#include "sys.h"

bool same(const char* a, const char* b);
size_t length_of(const char* text);
// Takes the next blank-separated word off *line; "" at its end.
char* next_word(char** line);
// Decimal or 0x….
u64 next_number(char** line);
// Is `word` in text[0..size)?
bool contains(const char* text, size_t size, const char* word);
// %s, %u (decimal u64), %x (hexadecimal u64), %t (timespec as seconds.nanoseconds). One write(2) to stdout.
void print(const char* format, ...);
void print_raw(const char* text, size_t size);
