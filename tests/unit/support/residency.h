#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace vmmd::testing {

/// Pages of an anonymous mapping that are in memory, or pages of a file mapping whose page is in the cache.
inline std::size_t resident_pages(const void* address, std::size_t size) {
  std::vector<unsigned char> pages(size / 4096);
  if (::mincore(const_cast<void*>(address), size, pages.data()) != 0) return SIZE_MAX;
  return static_cast<std::size_t>(
      std::count_if(pages.begin(), pages.end(), [](unsigned char page) { return (page & 1) != 0; }));
}

}  // namespace vmmd::testing
