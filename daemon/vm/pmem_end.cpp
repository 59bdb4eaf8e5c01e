#include "daemon/vm/pmem_end.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <cerrno>

#include "base/file.h"
#include "daemon/memory/layout.h"
#include "daemon/vm/private_pages.h"
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

/// What a snapshot calls the pages that were written.
std::string pages_name(const api::PmemConfig& pmem) {
  return "pmem-" + pmem.pci.id.value_or("") + ".bin";
}

}  // namespace

Result<std::unique_ptr<HostEnd>> PmemEnd::open(const api::VmConfig& config, std::size_t index,
                                               SnapshotFiles* snapshot_files) {
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
  if (pmem.discard_writes && snapshot_files != nullptr) {
    const std::string name = pages_name(pmem);
    const auto pages = snapshot_files->extract(name);
    if (pages.empty()) {
      return fail(ErrorCode::BadRequest, "the snapshot has no {}: the pmem did not discard writes then",
                  name);
    }
    VMMD_TRY(load_private_pages(*mapping, pages.mapped().get(), name));
  }
  return std::unique_ptr<HostEnd>(new PmemEnd(pmem, start, std::move(*file), std::move(*mapping)));
}

Result<std::unique_ptr<devices::VirtioDevice>> PmemEnd::make_device(const DeviceGlue& glue) {
  return std::unique_ptr<devices::VirtioDevice>(std::make_unique<devices::VirtioPmem>(
      devices::VirtioPmem::Config{config_.pci.id.value_or(""), start_, mapping_.size()},
      config_.discard_writes ? nullptr : file_.get(), glue.loop, glue.events));
}

std::vector<devices::GuestRegion> PmemEnd::memory() const {
  return {{devices::GuestAddress(start_), mapping_.size(), mapping_.data()}};
}

std::optional<OwnLoop> PmemEnd::own_loop() const {
  if (config_.discard_writes || !file_->holds_up_loop()) return std::nullopt;
  return OwnLoop{};
}

std::string PmemEnd::snapshot_file() const {
  return config_.discard_writes ? pages_name(config_) : std::string();
}

Status PmemEnd::check_whole() const {
  VMMD_ASSIGN(const std::uint64_t length, file_->size());
  if (length >= mapping_.size()) return {};
  return fail(ErrorCode::Internal, "pmem \"{}\": {} was cut to {} bytes, the guest has {}",
              config_.pci.id.value_or(""), file_->name(), length, mapping_.size());
}

Status PmemEnd::save_file(int fd, const std::stop_token& cancel) const {
  return save_private_pages(mapping_, fd, pages_name(config_), cancel);
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
