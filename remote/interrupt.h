#pragma once

#include <signal.h>

#include <initializer_list>

#include "base/result.h"
#include "base/unique_fd.h"

namespace vmmd::remote {

/// Takes signals as something to read, instead of dying by them, while it lives. Made before any thread,
/// which inherits that the signals are blocked.
class Interrupts {
 public:
  /// Those that ask a program at a terminal to end.
  static Result<Interrupts> take(std::initializer_list<int> signals = {SIGINT, SIGTERM, SIGHUP});
  Interrupts(Interrupts&& other) noexcept;
  Interrupts& operator=(Interrupts&&) = delete;
  ~Interrupts();

  /// Readable while a signal waits.
  [[nodiscard]] int fd() const { return fd_.get(); }
  /// Takes one signal that came, if any; 0 for none. Does not wait.
  int next();

 private:
  Interrupts() = default;
  UniqueFd fd_;
  sigset_t before_ = {};
};

}  // namespace vmmd::remote
