#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "devices/guest_address.h"
#include "devices/guest_memory.h"

namespace vmmd::devices {

/// One descriptor's buffer, checked to be guest RAM. What is in it is the guest's and changes while we look:
/// copy a header out once (Chain::copy_out), validate the copy.
struct Segment {
  GuestAddress address;
  std::byte* host = nullptr;
  std::uint32_t length = 0;  // bytes
};

/// A descriptor chain that the driver made available: buffers for the device to read, then buffers to write.
/// Keep one and pop into it again: its vectors keep their room, so that a request allocates nothing.
struct Chain {
  std::uint16_t head = 0;                             // names the chain in push()
  std::vector<Segment> readable;                      // device-readable, in order
  std::vector<Segment> writable;                      // device-writable, in order
  [[nodiscard]] std::uint64_t readable_size() const;  // bytes
  [[nodiscard]] std::uint64_t writable_size() const;

  /// Copies `out.size()` readable bytes from `offset` on; false if there are fewer.
  [[nodiscard]] bool copy_out(std::uint64_t offset, std::span<std::byte> out) const;
  /// Copies `data` into the writable buffers from `offset` on; false if it does not fit (nothing is written).
  [[nodiscard]] bool copy_in(std::uint64_t offset, std::span<const std::byte> data) const;
};

/// A split virtqueue, the device's side (virtio 1.2, 2.7), with indirect descriptors and event index.
///
/// Everything the driver writes is copied once, then checked. A chain that breaks the rules (an index out of
/// range, a loop, a buffer outside RAM, a readable buffer after a writable one, nested or odd indirect
/// tables, an avail index more than the queue's size ahead) makes the queue broken: pop() answers nothing
/// from then on, and broken() says so. Not locked: it belongs to its device's loop while the device runs, to
/// the transport otherwise.
class Queue {
 public:
  static constexpr std::uint16_t kMaxSize = 1024;
  /// Buffers of one chain, indirect ones included: at most the queue's size.

  /// What the driver sets up, and how far both sides have come: all that is saved.
  struct State {
    std::uint16_t size = 0;  // entries, a power of two
    bool enabled = false;
    GuestAddress descriptors;
    GuestAddress avail;            // driver area
    GuestAddress used;             // device area
    std::uint16_t next_avail = 0;  // the next avail entry to take
    std::uint16_t next_used = 0;   // the next used entry to fill; what is in flight or returned behind it
    /// Heads of chains that were popped and given back since: they are popped before any other.
    std::vector<std::uint16_t> returned;
    bool operator==(const State&) const = default;
  };

  Queue() = default;

  /// Before the device starts. Checks that size is a power of two up to kMaxSize and that the three areas are
  /// aligned and in RAM throughout; then the rings are used without further looks.
  Status start(const GuestMemory& memory, const State& state, bool event_index, bool indirect);
  [[nodiscard]] const State& state() const { return state_; }
  [[nodiscard]] bool running() const { return memory_ != nullptr; }
  void stop() { memory_ = nullptr; }

  /// The next chain, into `chain`. False: none there, or broken().
  [[nodiscard]] bool pop(Chain& chain);
  /// Gives the chain that was popped last back, as if it had not been taken (a rate limiter, a full backend).
  void undo_pop();
  /// Gives back a chain that was popped at any time and cannot be served now. It is popped again, walked
  /// anew, also after a restore: so that a device can stop with requests that wait for the host.
  void give_back(const Chain& chain);

  /// Puts a chain into the used ring; `written` bytes of its writable buffers were filled, and are marked
  /// dirty. The driver sees it after flush(). Chains may be used in any order.
  void push(const Chain& chain, std::uint32_t written);
  /// Lets a driver that looks at the ring of its own accord see what was pushed so far; whether it wants an
  /// interrupt is the next flush()'s question.
  void publish();
  /// Publishes what was pushed. True: the driver wants an interrupt for what came since the last flush().
  [[nodiscard]] bool flush();

  /// Asks the driver not to notify while we are looking anyway.
  void disable_notifications();
  /// Asks the driver to notify again. True: something came in meanwhile; pop() again.
  [[nodiscard]] bool enable_notifications();

  /// Whether a chain is waiting (one look at the avail index).
  [[nodiscard]] bool has_available();
  /// Chains that were popped and not yet pushed.
  [[nodiscard]] unsigned in_flight() const { return in_flight_; }
  /// What the driver did wrong; nullptr: nothing.
  [[nodiscard]] const char* broken() const { return broken_; }

 private:
  struct Descriptor;  // struct virtq_desc
  [[nodiscard]] bool fail(const char* reason);
  [[nodiscard]] bool refresh_avail();
  [[nodiscard]] bool walk(Chain& chain);
  [[nodiscard]] bool add(const Descriptor& descriptor, Chain& chain);
  [[nodiscard]] bool pop_returned(Chain& chain);
  void mark_ring_dirty(std::uint64_t offset);

  const GuestMemory* memory_ = nullptr;
  State state_;
  std::byte* descriptors_ = nullptr;  // host memory of the three areas, aligned, of one region
  std::byte* avail_ = nullptr;
  std::byte* used_ = nullptr;
  bool event_index_ = false;
  bool indirect_ = false;
  std::uint16_t avail_index_ = 0;  // as last read
  std::uint16_t pushed_ = 0;       // next_used including what is not published
  std::uint16_t flushed_ = 0;      // next_used at the last flush()
  unsigned in_flight_ = 0;
  std::optional<std::uint16_t> popped_again_;  // what the last pop() took was a returned one
  const char* broken_ = nullptr;
};

}  // namespace vmmd::devices
