#pragma once

#include <cstdio>
#include <cstdlib>

// How the floors' programs fail: at once, saying at what.

[[noreturn]] inline void die(const char* what) {
  std::perror(what);
  std::exit(1);
}

inline int checked(int result, const char* what) {
  if (result < 0) die(what);
  return result;
}
