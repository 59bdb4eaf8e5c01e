// The pages that a pmem's private mapping had, as a hostile snapshot has them.
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "daemon/memory/layout.h"
#include "daemon/vm/private_pages.h"
#include "tests/fuzz/support/device_fuzz.h"

using namespace vmmd;

namespace {

constexpr std::uint64_t kPage = memory::kPageSize;
constexpr std::uint64_t kBackground = 0xA5A4'A3A2'A1A0'9F9E;

void require(bool holds) {
  if (!holds) std::abort();
}

UniqueFd make_file(std::uint64_t length) {
  UniqueFd fd(::memfd_create("pages", MFD_CLOEXEC));
  require(fd && ::ftruncate(fd.get(), static_cast<off_t>(length)) == 0);
  return fd;
}

/// A private mapping of a file of `pages` pages, all of one word.
memory::Mapping make_mapping(const UniqueFd& file, std::uint64_t pages) {
  void* const at =
      ::mmap(nullptr, pages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, file.get(), 0);
  require(at != MAP_FAILED);
  return {static_cast<std::byte*>(at), pages * kPage};
}

std::uint64_t first_word(const memory::Mapping& mapping, std::uint64_t page) {
  std::uint64_t word = 0;
  std::memcpy(&word, mapping.data() + page * kPage, sizeof word);
  return word;
}

}  // namespace

// The header as it should be, with the set of pages and the pages that the input names; then the input's
// bytes over any place of it, and any length.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  const std::uint64_t pages = 1 + input.take<std::uint8_t>() % 20;
  const UniqueFd base = make_file(pages * kPage);
  for (std::uint64_t page = 0; page < pages; ++page) {
    require(::pwrite(base.get(), &kBackground, sizeof kBackground, static_cast<off_t>(page * kPage)) ==
            sizeof kBackground);
  }
  const UniqueFd saved = make_file(0);
  const auto written = input.take<std::uint32_t>();
  {
    const memory::Mapping source = make_mapping(base, pages);
    for (std::uint64_t page = 0; page < pages; ++page) {
      const std::uint64_t word = page + 1;
      if ((written >> page & 1) != 0) std::memcpy(source.data() + page * kPage, &word, sizeof word);
    }
    require(vm::save_private_pages(source, saved.get(), "pages").has_value());
  }
  bool touched = false;
  while (!input.empty()) {
    const auto at = input.take<std::uint16_t>();
    const std::string bytes = input.take_bytes(1 + input.take<std::uint8_t>() % 16);
    touched = true;
    if (at % 16 == 15) {
      require(::ftruncate(saved.get(), at) == 0);
    } else if (!bytes.empty()) {
      require(write_all_at(saved.get(), std::as_bytes(std::span(bytes)), at % 64, "pages").has_value());
    }
  }
  const memory::Mapping target = make_mapping(base, pages);
  const Status loaded = vm::load_private_pages(target, saved.get(), "pages");
  require(touched || loaded.has_value());
  if (!loaded) require(loaded.error().code == ErrorCode::BadRequest);
  for (std::uint64_t page = 0; !touched && page < pages; ++page) {
    require(first_word(target, page) == ((written >> page & 1) != 0 ? page + 1 : kBackground));
  }
  return 0;
}
