#include "base/relocations.h"

#include <link.h>
#include <sys/mman.h>

#include <cstdint>
#include <span>

namespace vmmd {

namespace {

constexpr std::uintptr_t kPageSize = 4096;

/// The linker puts them into the first segment, apart from code and constants (ld's -z separate-code).
int release_first_segment(dl_phdr_info* program, std::size_t /*size*/, void* /*unused*/) {
  for (const ElfW(Phdr) & segment : std::span(program->dlpi_phdr, program->dlpi_phnum)) {
    if (segment.p_type != PT_LOAD) continue;
    if (segment.p_flags != PF_R) break;
    const std::uintptr_t from = program->dlpi_addr + segment.p_vaddr;
    // NOLINTNEXTLINE(performance-no-int-to-ptr): where a program was loaded is told as a number
    ::madvise(reinterpret_cast<void*>(from & ~(kPageSize - 1)), segment.p_filesz + from % kPageSize,
              MADV_DONTNEED);
    break;
  }
  return 1;  // our own program comes first
}

}  // namespace

void release_relocations() {
  ::dl_iterate_phdr(release_first_segment, nullptr);
}

}  // namespace vmmd
