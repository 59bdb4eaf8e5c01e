#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "daemon/x86/kernel_file.h"

namespace vmmd::x86 {

/// An ELF64 kernel with a PVH entry, checked as a whole: nothing of it was loaded yet.
struct ElfImage {
  struct Segment {
    unsigned index = 0;  // of its program header
    std::uint64_t file_offset = 0;
    std::uint64_t file_size = 0;  // bytes; what follows up to the end of `memory` is zero
    Span memory;                  // guest physical: p_paddr
  };
  std::vector<Segment> segments;  // ascending by address, not overlapping, never empty
  std::uint64_t pvh_entry = 0;
  bool is_linux = false;  // has notes of owner "Linux"
};

Result<ElfImage> read_elf(const KernelFile& kernel);

}  // namespace vmmd::x86
