#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace vmmd::testing {

/// How many pages of a range this process has mapped, and how many of those are its own: anonymous, or copied
/// from a file on write.
struct PageCount {
  std::size_t mapped = 0;
  std::size_t own = 0;
};

inline PageCount count_pages(const void* address, std::size_t size) {
  constexpr std::uint64_t kPresent = std::uint64_t{1} << 63;  // Documentation/admin-guide/mm/pagemap.rst
  constexpr std::uint64_t kOfFile = std::uint64_t{1} << 61;
  std::vector<std::uint64_t> entries(size / 4096);
  const auto bytes = entries.size() * sizeof entries[0];
  const int fd = ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  const auto offset = reinterpret_cast<std::uintptr_t>(address) / 4096 * sizeof entries[0];
  const bool whole =
      ::pread(fd, entries.data(), bytes, static_cast<off_t>(offset)) == static_cast<ssize_t>(bytes);
  ::close(fd);
  if (!whole) return {SIZE_MAX, SIZE_MAX};
  PageCount count;
  for (const std::uint64_t entry : entries) {
    if ((entry & kPresent) == 0) continue;
    ++count.mapped;
    if ((entry & kOfFile) == 0) ++count.own;
  }
  return count;
}

/// VmFlags of the mapping that holds an address: "mg" mergeable, "hg" huge pages, "nr" not reserved.
inline std::set<std::string> mapping_flags(const void* address) {
  const auto wanted = reinterpret_cast<std::uintptr_t>(address);
  std::ifstream file("/proc/self/smaps");
  bool found = false;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::uintptr_t start = 0;
    std::uintptr_t end = 0;
    char dash = 0;
    if (words >> std::hex >> start >> dash >> end && dash == '-') {
      found = start <= wanted && wanted < end;
    } else if (found && line.starts_with("VmFlags:")) {
      std::istringstream list(line.substr(8));
      std::set<std::string> flags;
      for (std::string flag; list >> flag;) flags.insert(flag);
      return flags;
    }
  }
  return {};
}

}  // namespace vmmd::testing
