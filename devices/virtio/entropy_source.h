#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace vmmd::devices {

/// Random bytes for a guest: the host's getrandom(2), or a file that the configuration names. Never blocks.
///
/// A file that ends or fails is given up for getrandom(2), because a guest whose request got no bytes waits
/// for ever (Linux's driver does), and because the host's generator is never worse.
class EntropySource {
 public:
  static constexpr const char* kSystem = "/dev/urandom";

  /// `path` kSystem (the default of the configuration): getrandom(2).
  static Result<EntropySource> open(const std::string& path);

  /// Fills leading bytes of `out` and returns how many; 0 (of a non-empty `out`): none now, wait until
  /// wait_fd() is readable.
  [[nodiscard]] std::size_t fill(std::span<std::byte> out);
  [[nodiscard]] int wait_fd() const { return file_.get(); }

  /// What became of the file: 0, or the errno of the failed read; ENODATA at its end.
  [[nodiscard]] int failure() const { return failure_; }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
  UniqueFd file_;  // none: getrandom(2)
  int failure_ = 0;
};

}  // namespace vmmd::devices
