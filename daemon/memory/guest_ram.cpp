#include "daemon/memory/guest_ram.h"

#include <linux/memfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <utility>

#include "daemon/memory/memory_file.h"

namespace vmmd::memory {

namespace {

constexpr std::uint64_t kDefaultHugepage = std::uint64_t{2} << 20;

Result<UniqueFd> create_memfd(const api::MemoryConfig& config) {
  unsigned flags = MFD_CLOEXEC;
  if (config.hugepages) {
    const std::uint64_t page = config.hugepage_size.value_or(kDefaultHugepage);
    flags |= MFD_HUGETLB | (static_cast<unsigned>(std::countr_zero(page)) << MFD_HUGE_SHIFT);
  }
  UniqueFd fd(::memfd_create("vmmd-ram", flags));
  if (!fd) return fail_errno(ErrorCode::Internal, errno, "cannot create shared memory for guest RAM");
  if (::ftruncate(fd.get(), static_cast<off_t>(config.size)) != 0) {
    return fail_errno(ErrorCode::Internal, errno, "cannot size shared memory to {} bytes", config.size);
  }
  return fd;
}

}  // namespace

Mapping::Mapping(Mapping&& other) noexcept
    : address_(std::exchange(other.address_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  std::swap(address_, other.address_);
  std::swap(size_, other.size_);
  return *this;
}

Mapping::~Mapping() {
  if (address_ != nullptr) ::munmap(address_, size_);
}

Result<GuestRam> GuestRam::allocate(const api::MemoryConfig& config, const std::vector<RamRange>& layout) {
  // Without a reservation a huge page that the host lacks is a SIGBUS when the guest touches it.
  const int reserve = config.reserve || config.hugepages ? 0 : MAP_NORESERVE;
  if (config.file) {
    VMMD_ASSIGN(UniqueFd file, open_memory_file(*config.file, config.size));
    return live_file(std::move(file), layout, config);
  }
  if (config.shared || config.hugepages) {
    VMMD_ASSIGN(UniqueFd file, create_memfd(config));
    GuestRam ram(layout, Backing::SharedMemory, std::move(file));
    if (config.hugepages) ram.huge_page_size_ = config.hugepage_size.value_or(kDefaultHugepage);
    VMMD_TRY(ram.map(MAP_SHARED | reserve));
    ram.advise(config);
    return ram;
  }
  GuestRam ram(layout, Backing::Anonymous, UniqueFd());
  VMMD_TRY(ram.map(MAP_PRIVATE | MAP_ANONYMOUS | reserve));
  ram.advise(config);
  return ram;
}

Result<GuestRam> GuestRam::copy_on_write(UniqueFd file, const std::vector<RamRange>& layout,
                                         const api::MemoryConfig& config) {
  GuestRam ram(layout, Backing::PrivateFile, std::move(file));
  VMMD_TRY(ram.map(MAP_PRIVATE | (config.reserve ? 0 : MAP_NORESERVE)));
  ram.advise(config);
  return ram;
}

Result<GuestRam> GuestRam::live_file(UniqueFd file, const std::vector<RamRange>& layout,
                                     const api::MemoryConfig& config) {
  GuestRam ram(layout, Backing::File, std::move(file));
  VMMD_TRY(ram.map(MAP_SHARED | (config.reserve ? 0 : MAP_NORESERVE)));
  ram.advise(config);
  return ram;
}

Status GuestRam::map(int flags) {
  VMMD_ASSIGN(guard_, RamGuard::create());
  for (const RamRange& range : layout_) {
    void* address = ::mmap(nullptr, range.size, PROT_READ | PROT_WRITE, flags, file_.get(),
                           static_cast<off_t>(file_ ? range.file_offset : 0));
    if (address == MAP_FAILED) {
      const int error = errno;
      if (huge_pages() && error == ENOMEM) {
        return fail(ErrorCode::BadRequest,
                    "the host has not {} bytes of free huge pages for guest RAM: set vm.nr_hugepages (see "
                    "HugePages_Free in /proc/meminfo), or leave memory.hugepages off",
                    range.size);
      }
      return fail_errno(ErrorCode::Internal, error, "cannot map {} bytes of guest RAM", range.size);
    }
    mappings_.emplace_back(static_cast<std::byte*>(address), range.size);
    VMMD_TRY(guard_->cover(mappings_.back().data(), range.size, huge_pages() ? huge_page_size_ : kPageSize));
  }
  return {};
}

void GuestRam::advise(const api::MemoryConfig& config) const {
  for (const Mapping& mapping : mappings_) {
    // Advice that the kernel was built without is not worth a refusal.
    ::madvise(mapping.data(), mapping.size(), MADV_DONTDUMP);
    if (config.thp && backing_ == Backing::Anonymous)
      ::madvise(mapping.data(), mapping.size(), MADV_HUGEPAGE);
    if (config.mergeable) ::madvise(mapping.data(), mapping.size(), MADV_MERGEABLE);
  }
}

Status GuestRam::prefault(const std::function<bool(std::uint64_t bytes)>& go_on) const {
  const int advice = backing_ == Backing::PrivateFile ? MADV_POPULATE_READ : MADV_POPULATE_WRITE;
  // A piece takes 150 ms where the host is slowest: so soon a cancel is heard.
  const std::uint64_t piece = std::max(std::uint64_t{16} << 20, huge_page_size_);
  for (const Mapping& mapping : mappings_) {
    for (std::uint64_t at = 0; at < mapping.size(); at += piece) {
      const std::uint64_t bytes = std::min(piece, mapping.size() - at);
      if (::madvise(mapping.data() + at, bytes, advice) != 0) {
        if (errno == EFAULT || errno == ENOMEM) {
          return fail(ErrorCode::BadRequest,
                      "the host has not {} bytes for guest RAM to prefault: its memory, or the filesystem of "
                      "memory.file, is full",
                      mapping.size());
        }
        return fail_errno(ErrorCode::Internal, errno, "cannot prefault {} bytes of guest RAM",
                          mapping.size());
      }
      if (!go_on(bytes)) return fail(ErrorCode::Conflict, "cancelled while guest RAM was being prefaulted");
    }
  }
  return {};
}

Status GuestRam::remap_private() {
  for (std::size_t i = 0; i < layout_.size(); ++i) {
    // In place: KVM's memory slots name host addresses, so they stay valid; the kernel drops what it had
    // mapped.
    void* address = ::mmap(mappings_[i].data(), mappings_[i].size(), PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, file_.get(),
                           static_cast<off_t>(layout_[i].file_offset));
    if (address == MAP_FAILED) {
      return fail_errno(ErrorCode::Internal, errno, "cannot re-map guest RAM copy-on-write");
    }
    ::madvise(mappings_[i].data(), mappings_[i].size(), MADV_DONTDUMP);
  }
  backing_ = Backing::PrivateFile;
  file_given_up_ = true;
  return lock_memory_file(file_.get(), LOCK_SH, "of this VM");  // others may map it too from now on
}

Status GuestRam::check_whole() const {
  if (file_) {
    struct stat info = {};
    if (::fstat(file_.get(), &info) != 0)
      return fail_errno(ErrorCode::Internal, errno, "cannot stat the memory file");
    if (static_cast<std::uint64_t>(info.st_size) < size()) {
      return fail(
          ErrorCode::Internal,
          "the file behind guest RAM was cut to {} bytes, the VM has {}: what the guest stored beyond is "
          "lost",
          info.st_size, size());
    }
  }
  const auto lost = guard_->first_lost();
  if (!lost) return {};
  for (std::size_t i = 0; i < mappings_.size(); ++i) {
    const auto start = reinterpret_cast<std::uintptr_t>(mappings_[i].data());
    if (*lost < start || *lost >= start + mappings_[i].size()) continue;
    return fail(
        ErrorCode::Internal,
        "the host has no page for guest RAM at {:#x}: its memory file was cut, its filesystem is full, "
        "or the host's memory failed",
        layout_[i].start.value + (*lost - start));
  }
  return fail(ErrorCode::Internal, "the host has no page for guest RAM");
}

std::vector<devices::GuestRegion> GuestRam::regions() const {
  std::vector<devices::GuestRegion> regions;
  regions.reserve(layout_.size());
  for (std::size_t i = 0; i < layout_.size(); ++i) {
    regions.push_back({layout_[i].start, layout_[i].size, mappings_[i].data()});
  }
  return regions;
}

std::uint64_t GuestRam::size() const {
  std::uint64_t sum = 0;
  for (const RamRange& range : layout_) sum += range.size;
  return sum;
}

}  // namespace vmmd::memory
