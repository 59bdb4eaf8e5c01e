#pragma once

#include <stdlib.h>

#include <filesystem>
#include <string>
#include <string_view>

#include <doctest/doctest.h>

namespace vmmd::testing {

/// A directory that goes away with the test.
class TempDir {
 public:
  TempDir() {
    std::string pattern = (std::filesystem::temp_directory_path() / "vmmd-test-XXXXXX").native();
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  [[nodiscard]] std::string operator/(std::string_view name) const { return (path_ / name).native(); }

 private:
  std::filesystem::path path_;
};

}  // namespace vmmd::testing
