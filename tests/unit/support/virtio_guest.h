#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "devices/guest_memory.h"
#include "devices/virtio/queue.h"

/// The guest's side of virtio for tests of queues and devices: memory and a driver of one split ring. With
/// virtio_device.h beside it (loop, transport, a running device):
///
///   FakeGuest guest;
///   RunningDevice running(device, loop, guest);
///   running.start();                                  // every queue
///   const auto data = guest.place("hello");           // guest memory with these bytes
///   const auto answer = guest.allocate(512);
///   running.driver(0).add({{data, 5}}, {{answer, 512}});
///   running.notify(0);                                // and runs the loop until nothing is left to do
///   CHECK(running.driver(0).take_used() == std::vector<Used>{{0, 512}});
namespace vmmd::testing {

/// RAM of one region that does not start at 0, and what was marked dirty in it. Addresses are handed out
/// upwards, each in a cache line of its own.
class FakeGuest final : public devices::DirtySink {
 public:
  static constexpr std::uint64_t kStart = 0x1'0000;

  explicit FakeGuest(std::size_t size = 4 << 20) : size_(size) {
    void* host = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (host == MAP_FAILED) std::abort();
    host_ = static_cast<std::byte*>(host);
    memory_ = devices::GuestMemory({{devices::GuestAddress(kStart), size, host_}});
    memory_.set_dirty_sink(this);
  }
  ~FakeGuest() override { ::munmap(host_, size_); }
  FakeGuest(const FakeGuest&) = delete;
  FakeGuest& operator=(const FakeGuest&) = delete;

  [[nodiscard]] const devices::GuestMemory& memory() const { return memory_; }
  [[nodiscard]] devices::GuestAddress end() const { return devices::GuestAddress(kStart + size_); }

  devices::GuestAddress allocate(std::uint64_t length, std::uint64_t alignment = 64) {
    next_ = (next_ + alignment - 1) / alignment * alignment;
    const devices::GuestAddress address(next_);
    next_ += length;
    if (next_ > end().value) std::abort();
    return address;
  }
  devices::GuestAddress place(std::span<const std::byte> bytes) {
    const auto address = allocate(bytes.size());
    std::memcpy(at(address), bytes.data(), bytes.size());
    return address;
  }
  devices::GuestAddress place(std::string_view bytes) { return place(std::as_bytes(std::span(bytes))); }
  template <class T>
  devices::GuestAddress place_value(const T& value) {
    return place(std::as_bytes(std::span(&value, 1)));
  }
  [[nodiscard]] std::string bytes(devices::GuestAddress address, std::size_t length) const {
    return {reinterpret_cast<const char*>(at(address)), length};
  }
  template <class T>
  [[nodiscard]] T value(devices::GuestAddress address) const {
    T out;
    std::memcpy(&out, at(address), sizeof(T));
    return out;
  }
  /// As the guest writes: not marked dirty here.
  template <class T>
  void set(devices::GuestAddress address, const T& value) {
    std::memcpy(at(address), &value, sizeof(T));
  }

  void mark_dirty(devices::GuestAddress address, std::uint64_t length) override {
    dirty_.emplace_back(address, length);
  }
  /// Whether a single mark covers [address, address + length).
  [[nodiscard]] bool is_dirty(devices::GuestAddress address, std::uint64_t length) const {
    for (const auto& [start, size] : dirty_) {
      if (start <= address && address.value + length <= start.value + size) return true;
    }
    return false;
  }
  void clear_dirty() { dirty_.clear(); }

 private:
  [[nodiscard]] std::byte* at(devices::GuestAddress address) const {
    if (address.value < kStart || address >= end()) std::abort();
    return host_ + (address.value - kStart);
  }

  std::size_t size_;
  std::byte* host_ = nullptr;
  std::uint64_t next_ = kStart + 0x1000;
  devices::GuestMemory memory_;
  std::vector<std::pair<devices::GuestAddress, std::uint64_t>> dirty_;
};

struct Buffer {
  devices::GuestAddress address;
  std::uint32_t length = 0;
};

/// An entry of the used ring.
struct Used {
  std::uint32_t head = 0;
  std::uint32_t written = 0;
  bool operator==(const Used&) const = default;
};

/// A driver's side of one split ring (virtio 1.2, 2.7). Well-behaved unless one writes descriptors by hand.
class FakeDriver {
 public:
  struct Descriptor {
    std::uint64_t address = 0;
    std::uint32_t length = 0;
    std::uint16_t flags = 0;
    std::uint16_t next = 0;
  };
  static constexpr std::uint16_t kNext = 1;
  static constexpr std::uint16_t kWrite = 2;
  static constexpr std::uint16_t kIndirect = 4;

  FakeDriver(FakeGuest& guest, std::uint16_t size) : guest_(&guest), size_(size) {
    state_.size = size;
    state_.enabled = true;
    state_.descriptors = guest.allocate(16ULL * size, 16);
    state_.avail = guest.allocate(6 + 2ULL * size, 2);
    state_.used = guest.allocate(6 + 8ULL * size, 4);
    for (std::uint16_t i = size; i > 0; --i) free_.push_back(static_cast<std::uint16_t>(i - 1));
  }

  /// For Queue::start() or a transport's registers; indices are zero.
  [[nodiscard]] const devices::Queue::State& layout() const { return state_; }

  /// Makes a chain available; its head.
  std::uint16_t add(const std::vector<Buffer>& readable, const std::vector<Buffer>& writable) {
    const auto chain = descriptors_of(readable, writable);
    std::vector<std::uint16_t> places;
    for (std::size_t i = 0; i < chain.size(); ++i) places.push_back(take_free());
    for (std::size_t i = 0; i < chain.size(); ++i) {
      Descriptor descriptor = chain[i];
      if (i + 1 < chain.size()) descriptor.next = places[i + 1];
      set_descriptor(places[i], descriptor);
    }
    publish(places.front());
    in_use_.push_back(places);
    return places.front();
  }
  /// The same through an indirect table.
  std::uint16_t add_indirect(const std::vector<Buffer>& readable, const std::vector<Buffer>& writable) {
    auto chain = descriptors_of(readable, writable);
    for (std::size_t i = 0; i + 1 < chain.size(); ++i) chain[i].next = static_cast<std::uint16_t>(i + 1);
    const auto table = guest_->place(std::as_bytes(std::span(chain)));
    const std::uint16_t head = take_free();
    set_descriptor(head, {table.value, static_cast<std::uint32_t>(16 * chain.size()), kIndirect, 0});
    publish(head);
    in_use_.push_back({head});
    return head;
  }
  /// What the device used since the last call; their descriptors are free again.
  std::vector<Used> take_used() {
    std::vector<Used> used;
    for (; used_seen_ != used_index(); ++used_seen_) {
      const auto at = devices::GuestAddress(state_.used.value + 4 + 8ULL * (used_seen_ % size_));
      used.push_back(guest_->value<Used>(at));
      release(static_cast<std::uint16_t>(used.back().head));
    }
    return used;
  }

  [[nodiscard]] std::uint16_t used_index() const {
    return guest_->value<std::uint16_t>(field(state_.used, 2));
  }
  [[nodiscard]] std::uint16_t avail_index() const { return avail_index_; }
  /// VRING_AVAIL_F_NO_INTERRUPT, without event index.
  void suppress_interrupts(bool on) { guest_->set(state_.avail, std::uint16_t{on}); }
  /// With event index: interrupt when the used index passes `index`.
  void set_used_event(std::uint16_t index) { guest_->set(field(state_.avail, 4U + 2U * size_), index); }
  /// VRING_USED_F_NO_NOTIFY, without event index.
  [[nodiscard]] bool notifications_suppressed() const {
    return guest_->value<std::uint16_t>(state_.used) != 0;
  }
  /// With event index: the device wants to be told when the avail index passes this.
  [[nodiscard]] std::uint16_t avail_event() const {
    return guest_->value<std::uint16_t>(field(state_.used, 4U + 8U * size_));
  }

  // For a driver that breaks the rules.
  void set_descriptor(std::uint16_t index, const Descriptor& descriptor) {
    guest_->set(field(state_.descriptors, 16U * index), descriptor);
  }
  [[nodiscard]] Descriptor descriptor(std::uint16_t index) const {
    return guest_->value<Descriptor>(field(state_.descriptors, 16U * index));
  }
  /// Puts `head` into the avail ring, whatever it is.
  void publish(std::uint16_t head) {
    guest_->set(field(state_.avail, 4U + 2U * (avail_index_ % size_)), head);
    set_avail_index(static_cast<std::uint16_t>(avail_index_ + 1));
  }
  void set_avail_index(std::uint16_t index) {
    avail_index_ = index;
    guest_->set(field(state_.avail, 2), index);
  }
  /// As after so many requests: both indices of both sides, before the queue starts.
  void start_at(std::uint16_t index) {
    set_avail_index(index);
    guest_->set(field(state_.used, 2), index);
    used_seen_ = index;
    state_.next_avail = index;
    state_.next_used = index;
  }

 private:
  static devices::GuestAddress field(devices::GuestAddress base, std::uint64_t offset) {
    return devices::GuestAddress(base.value + offset);
  }
  static std::vector<Descriptor> descriptors_of(const std::vector<Buffer>& readable,
                                                const std::vector<Buffer>& writable) {
    std::vector<Descriptor> chain;
    for (const Buffer& b : readable) chain.push_back({b.address.value, b.length, kNext, 0});
    for (const Buffer& b : writable) chain.push_back({b.address.value, b.length, kNext | kWrite, 0});
    if (chain.empty()) std::abort();
    chain.back().flags &= static_cast<std::uint16_t>(~kNext);
    return chain;
  }
  std::uint16_t take_free() {
    if (free_.empty()) std::abort();
    const std::uint16_t index = free_.back();
    free_.pop_back();
    return index;
  }
  void release(std::uint16_t head) {
    for (auto chain = in_use_.begin(); chain != in_use_.end(); ++chain) {
      if (chain->front() != head) continue;
      free_.insert(free_.end(), chain->rbegin(), chain->rend());
      in_use_.erase(chain);
      return;
    }
  }

  FakeGuest* guest_;
  std::uint16_t size_;
  devices::Queue::State state_;
  std::uint16_t avail_index_ = 0;
  std::uint16_t used_seen_ = 0;
  std::vector<std::uint16_t> free_;
  std::vector<std::vector<std::uint16_t>> in_use_;
};

}  // namespace vmmd::testing
