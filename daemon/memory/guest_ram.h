#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "api/config.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "daemon/memory/layout.h"
#include "daemon/memory/ram_guard.h"
#include "devices/guest_memory.h"

namespace vmmd::memory {

/// A range of our address space; unmapped once.
class Mapping {
 public:
  Mapping() = default;
  Mapping(std::byte* address, std::size_t size) : address_(address), size_(size) {}
  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&& other) noexcept;
  ~Mapping();
  [[nodiscard]] std::byte* data() const { return address_; }
  [[nodiscard]] std::size_t size() const { return size_; }

 private:
  std::byte* address_ = nullptr;
  std::size_t size_ = 0;  // bytes
};

/// What holds guest RAM, which decides how it can be captured.
enum class Backing : std::uint8_t {
  Anonymous,     // private, zero where untouched
  SharedMemory,  // memfd, mapped shared (`shared`, `hugepages`)
  File,          // `memory.file`, mapped shared: the file is the RAM
  PrivateFile,   // a file mapped copy-on-write: a restored snapshot, or RAM re-mapped after a link snapshot
};

/// Guest RAM: one mapping per range of the layout. Costs a few microseconds whatever its size, because
/// nothing is touched before prefault().
class GuestRam {
 public:
  /// Fresh RAM as the configuration asks for. `memory.file` is created (0600) or kept with what it holds,
  /// sized if empty and never truncated; another size is a BadRequest that names both; a file that another VM
  /// uses is a Conflict.
  static Result<GuestRam> allocate(const api::MemoryConfig& config, const std::vector<RamRange>& layout);

  /// RAM that reads from `file` and never writes to it: a page is copied when the guest first changes it.
  static Result<GuestRam> copy_on_write(UniqueFd file, const std::vector<RamRange>& layout,
                                        const api::MemoryConfig& config);

  /// RAM that lives in `file`, which is as long as the layout says: what the guest writes, the file holds.
  static Result<GuestRam> live_file(UniqueFd file, const std::vector<RamRange>& layout,
                                    const api::MemoryConfig& config);

  /// Makes every page be there before the guest runs, as `prefault` asks. Pages that are copied when the
  /// guest first changes them are read, and stay shared until then. `go_on` is told after every few MiB how
  /// many bytes came, and says whether to: a Conflict if not. BadRequest if the host has not as many.
  [[nodiscard]] Status prefault(const std::function<bool(std::uint64_t bytes)>& go_on) const;

  /// Replaces the shared mapping of `file` by a private one of the same content at the same addresses, so
  /// that writes no longer reach it. For RAM whose file became a snapshot's memory.bin. vCPUs and workers are
  /// parked.
  Status remap_private();

  /// Is everything there that the guest has stored? Not if its file was cut, or if the host had no page where
  /// we touched one (see RamGuard): an error that says so.
  [[nodiscard]] Status check_whole() const;
  /// Readable once check_whole() fails for a page that we touched.
  [[nodiscard]] int lost_fd() const { return guard_->fd(); }

  [[nodiscard]] const std::vector<RamRange>& layout() const { return layout_; }
  [[nodiscard]] std::vector<devices::GuestRegion> regions() const;
  [[nodiscard]] Backing backing() const { return backing_; }
  /// After remap_private(): RAM was that file once, unlike that of a restored snapshot.
  [[nodiscard]] bool file_given_up() const { return file_given_up_; }
  [[nodiscard]] bool huge_pages() const { return huge_page_size_ != 0; }
  /// Bytes; 0 where RAM does not consist of huge pages.
  [[nodiscard]] std::uint64_t huge_page_size() const { return huge_page_size_; }
  /// The file behind RAM, flat (see RamRange::file_offset); -1 for anonymous RAM.
  [[nodiscard]] int fd() const { return file_.get(); }
  [[nodiscard]] std::uint64_t size() const;  // bytes

 private:
  GuestRam(std::vector<RamRange> layout, Backing backing, UniqueFd file)
      : layout_(std::move(layout)), backing_(backing), file_(std::move(file)) {}
  Status map(int flags);
  void advise(const api::MemoryConfig& config) const;

  std::vector<RamRange> layout_;
  Backing backing_;
  bool file_given_up_ = false;
  UniqueFd file_;
  std::uint64_t huge_page_size_ = 0;
  std::unique_ptr<RamGuard> guard_;  // outlives the mappings
  std::vector<Mapping> mappings_;    // one per range
};

}  // namespace vmmd::memory
