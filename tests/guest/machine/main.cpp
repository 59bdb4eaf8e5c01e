#define DOCTEST_CONFIG_IMPLEMENT
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include <doctest/doctest.h>

int main(int argc, char** argv) {
  constexpr int kSkipped = 77;  // meson's
  const int fd = ::open("/dev/kvm", O_RDWR | O_CLOEXEC);
  if (fd < 0) {
    std::fprintf(stderr, "SKIPPED: /dev/kvm cannot be opened: %s\n", std::strerror(errno));
    return kSkipped;
  }
  ::close(fd);
  return doctest::Context(argc, argv).run();
}
