#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

#include "devices/guest_address.h"

namespace vmmd::devices {

/// One contiguous range of guest RAM and where the host sees it.
struct GuestRegion {
  GuestAddress start;
  std::uint64_t size = 0;  // bytes
  std::byte* host = nullptr;
};

/// Told of every write that the VMM itself makes to guest RAM (KVM's dirty log does not see those).
class DirtySink {
 public:
  virtual ~DirtySink() = default;
  virtual void mark_dirty(GuestAddress address, std::uint64_t length) = 0;
};

/// Guest RAM as devices see it: bounds-checked copies by guest physical address.
///
/// The guest changes its memory while we look at it, so nothing here hands out references to structures: copy
/// a descriptor out once, validate the copy, use the copy. An access outside RAM answers false or nothing; it
/// never throws and never logs. An access may span adjacent regions. Thread-safe once built: regions never
/// change, the sink is set before any worker runs.
class GuestMemory {
 public:
  GuestMemory() = default;
  /// `regions` ascending by address, not overlapping. The memory must outlive this object.
  explicit GuestMemory(std::vector<GuestRegion> regions);

  [[nodiscard]] bool read(GuestAddress address, std::span<std::byte> out) const;
  [[nodiscard]] bool write(GuestAddress address, std::span<const std::byte> data) const;
  [[nodiscard]] bool fill(GuestAddress address, std::uint64_t length, std::byte value) const;
  /// True if [address, address + length) is RAM throughout.
  [[nodiscard]] bool contains(GuestAddress address, std::uint64_t length) const;

  template <class T>
  [[nodiscard]] std::optional<T> load(GuestAddress address) const {
    static_assert(std::is_trivially_copyable_v<T>);
    T value;
    if (!read(address, std::as_writable_bytes(std::span(&value, 1)))) return std::nullopt;
    return value;
  }
  template <class T>
  [[nodiscard]] bool store(GuestAddress address, const T& value) const {
    static_assert(std::is_trivially_copyable_v<T>);
    return write(address, std::as_bytes(std::span(&value, 1)));
  }

  /// Host memory of [address, address + length) for I/O by the kernel (iovec, io_uring); empty where it is
  /// not RAM of one region. The caller marks what it wrote dirty. Never read a structure through it.
  [[nodiscard]] std::span<std::byte> slice(GuestAddress address, std::uint64_t length) const;
  void mark_dirty(GuestAddress address, std::uint64_t length) const;

  [[nodiscard]] std::span<const GuestRegion> regions() const { return regions_; }
  [[nodiscard]] std::uint64_t total_size() const;
  void set_dirty_sink(DirtySink* sink) { dirty_ = sink; }

 private:
  [[nodiscard]] const GuestRegion* find(GuestAddress address) const;
  template <class Step>
  bool walk(GuestAddress address, std::uint64_t length, Step step) const;

  std::vector<GuestRegion> regions_;
  DirtySink* dirty_ = nullptr;
};

}  // namespace vmmd::devices
