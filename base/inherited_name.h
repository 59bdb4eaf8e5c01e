#pragma once

#include <pthread.h>

#include <array>
#include <string>

namespace vmmd {

/// While it is there, the threads that this one starts have `name` from their first moment, because a name is
/// inherited. To name another thread is to open its file in /proc, which takes as long as starting it.
class InheritedName {
 public:
  /// Cut to what the kernel keeps: 15 bytes.
  explicit InheritedName(const std::string& name) {
    if (::pthread_getname_np(::pthread_self(), mine_.data(), mine_.size()) != 0) return;
    known_ = ::pthread_setname_np(::pthread_self(), name.substr(0, mine_.size() - 1).c_str()) == 0;
  }
  ~InheritedName() {
    if (known_) ::pthread_setname_np(::pthread_self(), mine_.data());
  }
  InheritedName(const InheritedName&) = delete;
  InheritedName& operator=(const InheritedName&) = delete;

 private:
  std::array<char, 16> mine_{};
  bool known_ = false;
};

}  // namespace vmmd
