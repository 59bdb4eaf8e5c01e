#include "devices/virtio/queue.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <numeric>
#include <utility>

namespace vmmd::devices {

// virtio 1.2, 2.7.5
struct Queue::Descriptor {
  std::uint64_t address;
  std::uint32_t length;
  std::uint16_t flags;
  std::uint16_t next;
};

namespace {

constexpr std::uint16_t kNext = 1;
constexpr std::uint16_t kWrite = 2;
constexpr std::uint16_t kIndirect = 4;

constexpr std::uint16_t kNoInterrupt = 1;  // avail->flags
constexpr std::uint16_t kNoNotify = 1;     // used->flags

// Both rings start with flags and index, 2 bytes each (2.7.6, 2.7.8); the other side's event index follows
// the entries.
constexpr std::uint64_t kIndexOffset = 2;
constexpr std::uint64_t kRingOffset = 4;
constexpr std::uint64_t kDescriptorSize = 16;
constexpr std::uint64_t kAvailEntry = 2;
constexpr std::uint64_t kUsedEntry = 8;

struct UsedElement {
  std::uint32_t id;
  std::uint32_t length;
};

// The areas were checked to be aligned, so these are single accesses on both sides.
std::uint16_t load(const std::byte* at, int order) {
  return __atomic_load_n(reinterpret_cast<const std::uint16_t*>(at), order);
}
void store(std::byte* at, std::uint16_t value, int order) {
  __atomic_store_n(reinterpret_cast<std::uint16_t*>(at), value, order);
}

std::uint64_t total(const std::vector<Segment>& segments) {
  return std::accumulate(segments.begin(), segments.end(), std::uint64_t{0},
                         [](std::uint64_t sum, const Segment& s) { return sum + s.length; });
}

/// Calls step(host, length, position in the whole) for the pieces of [offset, offset + size).
template <class Step>
void for_each_piece(const std::vector<Segment>& segments, std::uint64_t offset, std::uint64_t size,
                    Step step) {
  std::uint64_t done = 0;
  for (const Segment& segment : segments) {
    if (done == size) return;
    if (offset >= segment.length) {
      offset -= segment.length;
      continue;
    }
    const std::uint64_t length = std::min(segment.length - offset, size - done);
    step(segment.host + offset, length, done);
    done += length;
    offset = 0;
  }
}

}  // namespace

std::uint64_t Chain::readable_size() const {
  return total(readable);
}

std::uint64_t Chain::writable_size() const {
  return total(writable);
}

bool Chain::copy_out(std::uint64_t offset, std::span<std::byte> out) const {
  const std::uint64_t size = readable_size();
  if (offset > size || out.size() > size - offset) return false;
  for_each_piece(readable, offset, out.size(),
                 [&](const std::byte* host, std::size_t length, std::size_t at) {
                   std::memcpy(out.data() + at, host, length);
                 });
  return true;
}

bool Chain::copy_in(std::uint64_t offset, std::span<const std::byte> data) const {
  const std::uint64_t size = writable_size();
  if (offset > size || data.size() > size - offset) return false;
  for_each_piece(writable, offset, data.size(), [&](std::byte* host, std::size_t length, std::size_t at) {
    std::memcpy(host, data.data() + at, length);
  });
  return true;
}

Status Queue::start(const GuestMemory& memory, const State& state, bool event_index, bool indirect) {
  stop();
  if (!std::has_single_bit(state.size) || state.size > kMaxSize) {
    return vmmd::fail(ErrorCode::BadRequest, "a queue of {} entries: not a power of two up to {}", state.size,
                      kMaxSize);
  }
  const auto area = [&](const char* name, GuestAddress address, std::uint64_t length,
                        std::uint64_t alignment) -> Result<std::byte*> {
    const auto host = memory.slice(address, length);
    if (host.empty() || address.value % alignment != 0) {
      return vmmd::fail(ErrorCode::BadRequest,
                        "a queue's {} of {} bytes at {:#x}: not in guest RAM or not aligned to {} bytes",
                        name, length, address.value, alignment);
    }
    return host.data();
  };
  const std::uint64_t n = state.size;
  VMMD_ASSIGN(std::byte* const descriptors,
              area("descriptor table", state.descriptors, n * kDescriptorSize, 16));
  VMMD_ASSIGN(std::byte* const avail, area("driver area", state.avail, kRingOffset + n * kAvailEntry + 2, 2));
  VMMD_ASSIGN(std::byte* const used, area("device area", state.used, kRingOffset + n * kUsedEntry + 2, 4));
  descriptors_ = descriptors;
  avail_ = avail;
  used_ = used;
  state_ = state;
  event_index_ = event_index;
  indirect_ = indirect;
  avail_index_ = state.next_avail;
  pushed_ = state.next_used;
  flushed_ = state.next_used;
  in_flight_ = 0;
  popped_again_.reset();
  broken_ = nullptr;
  memory_ = &memory;
  return {};
}

bool Queue::fail(const char* reason) {
  broken_ = reason;
  return false;
}

// The index is read once with acquire order: entries and descriptors that it covers are read after it.
bool Queue::refresh_avail() {
  avail_index_ = load(avail_ + kIndexOffset, __ATOMIC_ACQUIRE);
  const auto waiting = static_cast<std::uint16_t>(avail_index_ - state_.next_avail);
  if (waiting <= state_.size) return true;
  return fail("the available index is more than the queue's size ahead");
}

bool Queue::has_available() {
  if (memory_ == nullptr || broken_ != nullptr) return false;
  if (!state_.returned.empty()) return true;
  if (avail_index_ == state_.next_avail && !refresh_avail()) return false;
  return avail_index_ != state_.next_avail;
}

bool Queue::pop(Chain& chain) {
  if (!has_available()) return false;
  if (!state_.returned.empty()) return pop_returned(chain);
  const std::uint64_t entry = state_.next_avail & (state_.size - 1U);
  chain.head = load(avail_ + kRingOffset + entry * kAvailEntry, __ATOMIC_RELAXED);
  chain.readable.clear();
  chain.writable.clear();
  if (!walk(chain)) return false;
  ++state_.next_avail;
  ++in_flight_;
  popped_again_.reset();
  return true;
}

bool Queue::pop_returned(Chain& chain) {
  chain.head = state_.returned.front();
  chain.readable.clear();
  chain.writable.clear();
  if (!walk(chain)) return false;
  state_.returned.erase(state_.returned.begin());
  ++in_flight_;
  popped_again_ = chain.head;
  return true;
}

void Queue::undo_pop() {
  if (memory_ == nullptr || in_flight_ == 0) return;
  if (popped_again_) {
    state_.returned.insert(state_.returned.begin(), *popped_again_);
    popped_again_.reset();
  } else {
    --state_.next_avail;
  }
  --in_flight_;
}

void Queue::give_back(const Chain& chain) {
  if (memory_ == nullptr || in_flight_ == 0) return;
  state_.returned.push_back(chain.head);
  --in_flight_;
}

// A chain ends in its table, or goes over to one indirect table that ends it (2.7.5.3). Descriptors are
// counted, so that loops end.
bool Queue::walk(Chain& chain) {
  const std::byte* table = descriptors_;
  std::uint32_t entries = state_.size;
  std::uint32_t index = chain.head;
  bool nested = false;
  for (unsigned count = 0; count < state_.size;) {
    if (index >= entries) return fail("a descriptor index is out of range");
    Descriptor descriptor;
    std::memcpy(&descriptor, table + index * kDescriptorSize, sizeof(descriptor));
    if ((descriptor.flags & kIndirect) != 0) {
      if (!indirect_ || nested || (descriptor.flags & kNext) != 0) {
        return fail("an indirect descriptor where there may be none");
      }
      const auto host = memory_->slice(GuestAddress(descriptor.address), descriptor.length);
      if (host.empty() || descriptor.length % kDescriptorSize != 0) {
        return fail("an indirect table is outside RAM or of an odd size");
      }
      table = host.data();
      entries = static_cast<std::uint32_t>(descriptor.length / kDescriptorSize);
      index = 0;
      nested = true;
      continue;
    }
    ++count;
    if (!add(descriptor, chain)) return false;
    if ((descriptor.flags & kNext) == 0) return true;
    index = descriptor.next;
  }
  return fail("a chain is longer than its queue");
}

bool Queue::add(const Descriptor& descriptor, Chain& chain) {
  const bool writable = (descriptor.flags & kWrite) != 0;
  if (!writable && !chain.writable.empty()) return fail("a readable buffer follows a writable one");
  if (descriptor.length == 0) return true;
  const GuestAddress address(descriptor.address);
  const auto host = memory_->slice(address, descriptor.length);
  if (host.empty()) return fail("a buffer is outside RAM");
  (writable ? chain.writable : chain.readable).push_back({address, host.data(), descriptor.length});
  return true;
}

void Queue::push(const Chain& chain, std::uint32_t written) {
  if (memory_ == nullptr || in_flight_ == 0) return;
  std::uint64_t rest = written;
  for (const Segment& segment : chain.writable) {
    if (rest == 0) break;
    const std::uint64_t length = std::min<std::uint64_t>(rest, segment.length);
    memory_->mark_dirty(segment.address, length);
    rest -= length;
  }
  const UsedElement element{chain.head, written};
  const std::uint64_t offset = kRingOffset + (pushed_ & (state_.size - 1U)) * kUsedEntry;
  std::memcpy(used_ + offset, &element, sizeof(element));
  memory_->mark_dirty(GuestAddress(state_.used.value + offset), sizeof(element));
  ++pushed_;
  --in_flight_;
}

void Queue::publish() {
  if (memory_ == nullptr || pushed_ == state_.next_used) return;
  state_.next_used = pushed_;
  store(used_ + kIndexOffset, pushed_, __ATOMIC_RELEASE);
  mark_ring_dirty(kIndexOffset);
}

bool Queue::flush() {
  if (memory_ == nullptr || pushed_ == flushed_) return false;
  publish();
  const auto before = std::exchange(flushed_, pushed_);
  // The driver writes its wish, then looks at the index; we the other way round. One of us sees the other's.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (!event_index_) return (load(avail_, __ATOMIC_RELAXED) & kNoInterrupt) == 0;
  const std::uint16_t event = load(avail_ + kRingOffset + state_.size * kAvailEntry, __ATOMIC_RELAXED);
  // 2.7.7.2: an interrupt if the index passed `event` since the last look.
  return static_cast<std::uint16_t>(pushed_ - event - 1) < static_cast<std::uint16_t>(pushed_ - before);
}

// With event index, the driver notifies when it passes the index we left there: once, which is little enough.
void Queue::disable_notifications() {
  if (memory_ == nullptr || event_index_) return;
  store(used_, kNoNotify, __ATOMIC_RELAXED);
  mark_ring_dirty(0);
}

bool Queue::enable_notifications() {
  if (memory_ == nullptr || broken_ != nullptr) return false;
  if (event_index_) {
    const std::uint64_t offset = kRingOffset + state_.size * kUsedEntry;
    store(used_ + offset, state_.next_avail, __ATOMIC_RELAXED);
    mark_ring_dirty(offset);
  } else {
    store(used_, 0, __ATOMIC_RELAXED);
    mark_ring_dirty(0);
  }
  std::atomic_thread_fence(std::memory_order_seq_cst);  // as in flush()
  return has_available();
}

void Queue::mark_ring_dirty(std::uint64_t offset) {
  memory_->mark_dirty(GuestAddress(state_.used.value + offset), 2);
}

}  // namespace vmmd::devices
