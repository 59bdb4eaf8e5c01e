#include "daemon/vm/pmem_end.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/file.h"
#include "daemon/memory/layout.h"
#include "devices/virtio/pmem.h"

namespace vmmd::vm {

namespace {

Result<std::uint64_t> start_of(const api::VmConfig& config, std::size_t index) {
  VMMD_ASSIGN(const auto ram, memory::ram_layout(config.memory.size, config.cpus.max_phys_bits));
  std::vector<std::uint64_t> sizes;
  sizes.reserve(config.pmem.size());
  for (const api::PmemConfig& pmem : config.pmem) sizes.push_back(pmem.size.value_or(0));
  VMMD_ASSIGN(const auto starts, memory::place_above_ram(ram, sizes, config.cpus.max_phys_bits));
  return starts.at(index);
}

Result<memory::Mapping> map(const devices::RawFile& file, std::uint64_t size, bool discard_writes) {
  // Of a private mapping only what the guest writes takes memory; it is not to be promised for all.
  const int flags = discard_writes ? MAP_PRIVATE | MAP_NORESERVE : MAP_SHARED;
  void* const at = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, flags, file.fd(), 0);
  if (at == MAP_FAILED) return fail_errno(ErrorCode::Internal, errno, "cannot map {}", file.name());
  return memory::Mapping(static_cast<std::byte*>(at), size);
}

/// How many pages of a private file mapping are copies of their own (Documentation/admin-guide/mm/pagemap).
Result<std::uint64_t> copied_pages(const memory::Mapping& mapping) {
  constexpr std::uint64_t kPresent = 1ULL << 63, kSwapped = 1ULL << 62, kOfFile = 1ULL << 61;
  VMMD_ASSIGN(const UniqueFd map, open_file("/proc/self/pagemap", O_RDONLY));
  const std::uint64_t pages = mapping.size() / memory::kPageSize;
  const std::uint64_t first = reinterpret_cast<std::uintptr_t>(mapping.data()) / memory::kPageSize;
  std::array<std::uint64_t, 4096> entries{};
  std::uint64_t copied = 0;
  for (std::uint64_t page = 0; page < pages;) {
    const std::uint64_t count = std::min<std::uint64_t>(entries.size(), pages - page);
    const auto bytes = static_cast<ssize_t>(count * sizeof entries[0]);
    const auto at = static_cast<off_t>((first + page) * sizeof entries[0]);
    if (::pread(map.get(), entries.data(), static_cast<std::size_t>(bytes), at) != bytes) {
      return fail_errno(ErrorCode::Internal, errno, "cannot read /proc/self/pagemap");
    }
    copied += static_cast<std::uint64_t>(std::count_if(
        entries.begin(), entries.begin() + static_cast<std::ptrdiff_t>(count), [](std::uint64_t entry) {
          return (entry & kSwapped) != 0 || ((entry & kPresent) != 0 && (entry & kOfFile) == 0);
        }));
    page += count;
  }
  return copied;
}

}  // namespace

Result<std::unique_ptr<HostEnd>> PmemEnd::open(const api::VmConfig& config, std::size_t index) {
  const api::PmemConfig& pmem = config.pmem.at(index);
  const auto blame = [&](Error error) {
    return wrap(std::move(error), "cannot open pmem \"{}\"", pmem.pci.id.value_or(""));
  };
  VMMD_ASSIGN(const std::uint64_t start, start_of(config, index));
  auto file = devices::RawFile::open(pmem.file, {.readonly = pmem.discard_writes});
  if (!file) return blame(std::move(file).error());
  const std::uint64_t size = pmem.size.value_or(0);
  auto length = (*file)->size();
  if (!length) return blame(std::move(length).error());
  if (size == 0 || *length < size) {
    // What lies beyond a file's end cannot be touched.
    return fail(ErrorCode::BadRequest, "pmem \"{}\": {} has {} bytes, fewer than {}",
                pmem.pci.id.value_or(""), pmem.file, *length, size);
  }
  auto mapping = map(**file, size, pmem.discard_writes);
  if (!mapping) return blame(std::move(mapping).error());
  return std::unique_ptr<HostEnd>(new PmemEnd(pmem, start, std::move(*file), std::move(*mapping)));
}

Result<std::unique_ptr<devices::VirtioDevice>> PmemEnd::make_device(const DeviceGlue& glue) {
  devices::VirtioPmem::Backing backing;
  if (config_.discard_writes) {
    backing.can_save = [this] { return check_unwritten(); };
  } else {
    backing.disk = file_.get();
  }
  return std::unique_ptr<devices::VirtioDevice>(std::make_unique<devices::VirtioPmem>(
      devices::VirtioPmem::Config{config_.pci.id.value_or(""), start_, mapping_.size()}, std::move(backing),
      glue.shared_loop, glue.events));
}

std::vector<devices::GuestRegion> PmemEnd::memory() const {
  return {{devices::GuestAddress(start_), mapping_.size(), mapping_.data()}};
}

Status PmemEnd::check_unwritten() const {
  VMMD_ASSIGN(const std::uint64_t copied, copied_pages(mapping_));
  if (copied == 0) return {};
  return fail(
      ErrorCode::NotSupported,
      "the guest has written {} pages of pmem \"{}\", which discard_writes keeps in memory that no "
      "snapshot holds: let it mount {} read-only, or give it a file of its own without discard_writes",
      copied, config_.pci.id.value_or(""), config_.file);
}

Status give_pmem_sizes(api::VmConfig& config) {
  for (api::PmemConfig& pmem : config.pmem) {
    if (pmem.size) continue;
    VMMD_ASSIGN(const UniqueFd file, open_file(pmem.file, O_RDONLY | O_NONBLOCK));
    VMMD_ASSIGN(pmem.size, file_size(file.get(), pmem.file));
  }
  return {};
}

}  // namespace vmmd::vm
