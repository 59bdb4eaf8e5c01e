#include "daemon/vm/private_pages.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstdint>
#include <span>
#include <vector>

#include "base/file.h"
#include "daemon/memory/layout.h"

namespace vmmd::vm {

namespace {

static_assert(std::endian::native == std::endian::little);
constexpr std::uint64_t kPage = memory::kPageSize;
constexpr std::uint64_t kMagic = 0x45474150'444d4d56;  // "VMMDPAGE"

struct Header {
  std::uint64_t magic = kMagic;
  std::uint64_t length = 0;  // bytes, of the mapping
};

/// One bit for each page of a mapping.
class PageSet {
 public:
  explicit PageSet(std::uint64_t pages) : pages_(pages), bits_((pages + 7) / 8) {}
  void add(std::uint64_t page) { bits_[page / 8] |= static_cast<std::uint8_t>(1U << (page % 8)); }
  [[nodiscard]] bool has(std::uint64_t page) const {
    return (unsigned{bits_[page / 8]} >> (page % 8) & 1U) != 0;
  }
  [[nodiscard]] std::uint64_t count() const {
    std::uint64_t count = 0;
    for (const std::uint8_t byte : bits_) count += static_cast<std::uint64_t>(std::popcount(byte));
    return count;
  }
  /// Whether no bit lies beyond the last page.
  [[nodiscard]] bool valid() const { return pages_ % 8 == 0 || bits_.back() >> (pages_ % 8) == 0; }
  [[nodiscard]] std::span<std::byte> bytes() { return std::as_writable_bytes(std::span(bits_)); }

  /// Calls `visit(first, count)` for each run of pages, until one fails.
  template <class Visit>
  Status for_each_run(Visit visit) const {
    for (std::uint64_t page = 0; page < pages_;) {
      if (!has(page)) {
        ++page;
        continue;
      }
      std::uint64_t end = page + 1;
      while (end < pages_ && has(end)) ++end;
      VMMD_TRY(visit(page, end - page));
      page = end;
    }
    return {};
  }

 private:
  std::uint64_t pages_;
  std::vector<std::uint8_t> bits_;
};

/// Reads the set that is stored in a file, a piece after the other: `visit(first page, set)` for each, until
/// one fails. A sparse file may be of any length, and so may a mapping of one: neither sizes what we
/// allocate.
template <class Visit>
Status for_each_piece(int fd, std::uint64_t pages, const std::string& name, Visit visit) {
  constexpr std::uint64_t kPagesAtOnce = std::uint64_t{1} << 19;  // 64 KiB of bits
  for (std::uint64_t first = 0; first < pages; first += kPagesAtOnce) {
    PageSet piece(std::min(kPagesAtOnce, pages - first));
    VMMD_TRY(read_exact_at(fd, piece.bytes(), sizeof(Header) + first / 8, name));
    VMMD_TRY(visit(first, piece));
  }
  return {};
}

std::uint64_t data_start(std::uint64_t pages) {
  return (sizeof(Header) + (pages + 7) / 8 + kPage - 1) & ~(kPage - 1);
}

/// The pages that are copies of their own (Documentation/admin-guide/mm/pagemap.rst).
Result<PageSet> written_pages(const memory::Mapping& mapping) {
  constexpr std::uint64_t kPresent = 1ULL << 63, kSwapped = 1ULL << 62, kOfFile = 1ULL << 61;
  VMMD_ASSIGN(const UniqueFd map, open_file("/proc/self/pagemap", O_RDONLY));
  const std::uint64_t first = reinterpret_cast<std::uintptr_t>(mapping.data()) / kPage;
  PageSet written(mapping.size() / kPage);
  std::array<std::uint64_t, 4096> entries{};
  for (std::uint64_t done = 0; done < mapping.size() / kPage;) {
    const std::uint64_t count = std::min<std::uint64_t>(entries.size(), mapping.size() / kPage - done);
    VMMD_TRY(read_exact_at(map.get(), std::as_writable_bytes(std::span(entries).first(count)),
                           (first + done) * sizeof entries[0], "/proc/self/pagemap"));
    for (std::uint64_t i = 0; i < count; ++i) {
      const bool own = (entries.at(i) & kSwapped) != 0 ||
                       ((entries.at(i) & kPresent) != 0 && (entries.at(i) & kOfFile) == 0);
      if (own) written.add(done + i);
    }
    done += count;
  }
  return written;
}

}  // namespace

Status save_private_pages(const memory::Mapping& mapping, int fd, const std::string& name,
                          const std::stop_token& cancel) {
  VMMD_ASSIGN(PageSet written, written_pages(mapping));
  const Header header{.length = mapping.size()};
  VMMD_TRY(write_all_at(fd, std::as_bytes(std::span(&header, 1)), 0, name));
  VMMD_TRY(write_all_at(fd, written.bytes(), sizeof header, name));
  std::uint64_t at = data_start(mapping.size() / kPage);
  if (::ftruncate(fd, static_cast<off_t>(at)) != 0) {
    return fail_errno(ErrorCode::Internal, errno, "cannot size {}", name);
  }
  return written.for_each_run([&](std::uint64_t page, std::uint64_t count) -> Status {
    constexpr std::uint64_t kMost = 256;  // pages at once: a cancel waits for no more
    for (const std::uint64_t end = page + count; page < end; page += kMost) {
      if (cancel.stop_requested()) return fail(ErrorCode::Conflict, "writing {} was cancelled", name);
      const std::uint64_t bytes = std::min(kMost, end - page) * kPage;
      VMMD_TRY(write_all_at(fd, {mapping.data() + page * kPage, bytes}, at, name));
      at += bytes;
    }
    return {};
  });
}

Status load_private_pages(const memory::Mapping& mapping, int fd, const std::string& name) {
  VMMD_ASSIGN(const std::uint64_t length, file_size(fd, name));
  Header header;
  VMMD_TRY(read_exact_at(fd, std::as_writable_bytes(std::span(&header, 1)), 0, name));
  if (header.magic != kMagic) return fail(ErrorCode::BadRequest, "{} holds no pages of a mapping", name);
  if (header.length != mapping.size()) {
    return fail(ErrorCode::BadRequest, "{} is of {} bytes of memory, not of {}", name, header.length,
                mapping.size());
  }
  const std::uint64_t pages = mapping.size() / kPage;
  const std::uint64_t start = data_start(pages);
  std::uint64_t listed = 0;
  VMMD_TRY(for_each_piece(fd, pages, name, [&](std::uint64_t, const PageSet& piece) -> Status {
    if (!piece.valid())
      return fail(ErrorCode::BadRequest, "{} is damaged: it lists pages beyond the last", name);
    listed += piece.count();
    return {};
  }));
  if (length != start + listed * kPage) {
    return fail(ErrorCode::BadRequest, "{} is damaged: it does not have the pages that it lists", name);
  }
  std::uint64_t at = start;
  return for_each_piece(fd, pages, name, [&](std::uint64_t first, const PageSet& piece) {
    return piece.for_each_run([&](std::uint64_t page, std::uint64_t count) -> Status {
      // The file may have changed since it was counted.
      if (count * kPage > length - at)
        return fail(ErrorCode::BadRequest, "{} changed while it was read", name);
      VMMD_TRY(read_exact_at(fd, {mapping.data() + (first + page) * kPage, count * kPage}, at, name));
      at += count * kPage;
      return {};
    });
  });
}

}  // namespace vmmd::vm
