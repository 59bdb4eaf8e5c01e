#include "text.h"

#include <stdarg.h>

bool same(const char* a, const char* b) {
  while (*a && *a == *b) a++, b++;
  return *a == *b;
}

size_t length_of(const char* text) {
  size_t n = 0;
  while (text[n]) n++;
  return n;
}

char* next_word(char** line) {
  while (**line == ' ') ++*line;
  char* word = *line;
  while (**line && **line != ' ') ++*line;
  if (**line) *(*line)++ = 0;
  return word;
}

u64 next_number(char** line) {
  const char* p = next_word(line);
  unsigned base = 10;
  if (p[0] == '0' && p[1] == 'x') {
    base = 16;
    p += 2;
  }
  u64 value = 0;
  for (;; p++) {
    unsigned digit = (unsigned)(*p >= 'a' ? *p - 'a' + 10 : *p - '0');
    if (digit >= base) return value;
    value = value * base + digit;
  }
}

bool contains(const char* text, size_t size, const char* word) {
  size_t n = length_of(word);
  for (size_t i = 0; i + n <= size; i++) {
    size_t k = 0;
    while (k < n && text[i + k] == word[k]) k++;
    if (k == n) return true;
  }
  return false;
}

struct output {
  char text[512];
  size_t length;
};

static void add(struct output* out, const char* text, size_t size) {
  for (size_t i = 0; i < size && out->length < sizeof out->text; i++) out->text[out->length++] = text[i];
}

static void add_number(struct output* out, u64 value, unsigned base, unsigned digits) {
  char text[24];
  size_t at = sizeof text;
  do text[--at] = "0123456789abcdef"[value % base];
  while ((value /= base) != 0 || sizeof text - at < digits);
  add(out, text + at, sizeof text - at);
}

void print(const char* format, ...) {
  struct output out = {.length = 0};
  va_list arguments;
  va_start(arguments, format);
  for (; *format; format++) {
    if (*format != '%') {
      add(&out, format, 1);
      continue;
    }
    format++;
    if (*format == 's') {
      const char* text = va_arg(arguments, const char*);
      add(&out, text, length_of(text));
    } else if (*format == 't') {
      struct timespec time = va_arg(arguments, struct timespec);
      add_number(&out, (u64)time.seconds, 10, 1);
      add(&out, ".", 1);
      add_number(&out, (u64)time.nanoseconds, 10, 9);
    } else {
      add_number(&out, va_arg(arguments, u64), *format == 'x' ? 16 : 10, 1);
    }
  }
  va_end(arguments);
  print_raw(out.text, out.length);
}

void print_raw(const char* text, size_t size) {
  while (size > 0) {
    long n = write_fd(1, text, size);
    if (n <= 0) return;
    text += n;
    size -= (size_t)n;
  }
}
