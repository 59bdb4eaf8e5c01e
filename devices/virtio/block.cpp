#include "devices/virtio/block.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

#include <fmt/format.h>

#include "devices/virtio/block_protocol.h"

namespace vmmd::devices {

using namespace block_protocol;

namespace {

constexpr unsigned kQuietRequests = 1024;
/// Requests that are given to the disk together. More would save little, and a polling driver would wait.
constexpr std::size_t kPart = 16;

// A device's requests in flight, and those of one turn, are bounded by what they cost: descriptors may repeat
// the same RAM as often as a guest likes. More waits in the rings; any single request may begin below it.
constexpr std::uint64_t kMostAtOnce = 64 << 20;     // bytes
constexpr std::uint64_t kLeastOfSegment = 4096;     // bytes that each descriptor counts for
constexpr std::uint64_t kFlushCost = 1 << 20;       // bytes that a flush counts for
constexpr std::uint64_t kRangesCost = 4 << 20;      // bytes that discards and zeroes count for
constexpr std::uint64_t kMostOfRequest = 1U << 30;  // bytes: as many segments as any queue takes

void append(std::vector<iovec>& buffers, std::span<const Segment> segments, std::uint64_t skip,
            std::uint64_t length) {
  for (const Segment& segment : segments) {
    if (skip >= segment.length) {
      skip -= segment.length;
      continue;
    }
    // In pieces of the largest segment, for a driver that was not told of it.
    for (std::uint64_t rest = std::min(segment.length - skip, length); rest > 0;) {
      const std::uint64_t take = std::min<std::uint64_t>(rest, kMaxSegment);
      buffers.push_back({segment.host + skip, take});
      rest -= take;
      length -= take;
      skip += take;
    }
    if (length == 0) return;
    skip = 0;
  }
}

bool within(std::uint64_t sector, std::uint64_t count, std::uint64_t sectors) {
  return sector <= sectors && count <= sectors - sector;
}

}  // namespace

struct VirtioBlock::Slot : DiskRequest {
  VirtioBlock* device = nullptr;
  unsigned queue = 0;
  Chain chain;
  std::uint64_t cost = 0;  // of in_flight_
  std::array<Range, kMaxRanges> ranges{};
  std::size_t range = 0;
  std::size_t range_count = 0;
};

VirtioBlock::VirtioBlock(Config config, Disk& disk, std::uint64_t size, EventLoop& loop,
                         std::shared_ptr<RateLimiter> limiter, DeviceEvents& events)
    : config_(std::move(config)),
      unit_name_("disk:" + config_.id),
      disk_(disk),
      loop_(loop),
      events_(events),
      limit_(std::move(limiter), loop,
             [this] {
               if (!running_) return;
               for (unsigned i = 0; i < queues_.size(); ++i) {
                 if (queues_[i].throttled) run_queue(i);
               }
               end_turn();
             }),
      queues_(config_.queues) {
  state_.sectors = size / kSector;
}

// A queue has as many as it ever had in flight, at most its size: 64 queues of 1024 that a guest does not use
// are not to cost what they could.
VirtioBlock::Slot& VirtioBlock::free_slot(unsigned index) {
  QueueState& queue = queues_[index];
  if (!queue.free.empty()) return *queue.free.back();
  Slot& slot = *queue.slots.emplace_back(std::make_unique<Slot>());
  slot.device = this;
  slot.queue = index;
  slot.done = [](DiskRequest& request) {
    auto& mine = static_cast<Slot&>(request);
    if (request.error == 0 && ++mine.range < mine.range_count) {
      mine.device->next_range(mine);
    } else if (mine.device->waits_for_room(request)) {
      mine.device->hold(mine);
    } else {
      mine.device->finish(mine, request.error == 0            ? kOk
                                : request.error == EOPNOTSUPP ? kUnsupported
                                                              : kIoError);
    }
  };
  queue.free.push_back(&slot);
  return slot;
}

VirtioBlock::~VirtioBlock() = default;

void VirtioBlock::start(const VirtioRun& run) {
  run_ = run;
  running_ = true;
  told_full_ = false;
  for (QueueState& queue : queues_) queue.stopping = queue.throttled = queue.starved = false;
  if (auto started = disk_.start(loop_, [this] { batch_done(); }); !started) {
    running_ = false;
    events_.backend_failed(unit_name_, started.error().to_string());
    run_.transport->needs_reset("the disk cannot be used");
    return;
  }
  host_end_changed();  // the image may have grown while the VM stood still
  for (unsigned i = 0; i < queues_.size(); ++i) run_queue(i);
  end_turn();
}

void VirtioBlock::stop(std::function<void()> stopped) {
  running_ = false;
  stopped_ = std::move(stopped);
  check_stopped(0);
}

void VirtioBlock::stop_queue(unsigned index, std::function<void()> stopped) {
  queues_[index].stopping = true;
  queues_[index].stopped = std::move(stopped);
  check_stopped(index);
}

void VirtioBlock::start_queue(unsigned index) {
  QueueState& queue = queues_[index];
  queue.stopping = queue.throttled = queue.starved = false;
  notify(index);
}

// What waits for room is not waited for: it goes back to its queue, which a reset forgets.
void VirtioBlock::check_stopped(unsigned index) {
  QueueState& queue = queues_[index];
  if (queue.stopped && queue.idle()) {
    give_back(index);
    std::exchange(queue.stopped, nullptr)();
  }
  if (!stopped_ || posted_) return;
  for (const QueueState& each : queues_) {
    if (!each.idle()) return;
  }
  for (unsigned i = 0; i < queues_.size(); ++i) give_back(i);
  disk_.stop();
  std::exchange(stopped_, nullptr)();
}

// A flush is not tried again: once it has failed, the host may forget what it did not write.
bool VirtioBlock::waits_for_room(const DiskRequest& request) const {
  const bool full = request.error == ENOSPC || request.error == EDQUOT;
  return config_.wait_when_full && full && request.op != DiskOp::Flush;
}

void VirtioBlock::hold(Slot& slot) {
  in_flight_ -= std::exchange(slot.cost, 0);
  queues_[slot.queue].held.push_back(&slot);
  counters_.held.fetch_add(1, std::memory_order_relaxed);
  if (!std::exchange(told_full_, true))
    events_.disk_full(unit_name_, fmt::format("{}: {}", disk_.name(), std::strerror(slot.error)));
}

void VirtioBlock::give_back(unsigned index) {
  QueueState& mine = queues_[index];
  for (Slot* slot : mine.held) {
    run_.queues[index].give_back(slot->chain);
    mine.free.push_back(slot);
  }
  mine.held.clear();
}

void VirtioBlock::notify(unsigned index) {
  run_queue(index);
  end_turn();
}

void VirtioBlock::run_queue(unsigned index) {
  if (!running_ || index >= run_.queues.size()) return;
  QueueState& mine = queues_[index];
  Queue& queue = run_.queues[index];
  if (mine.stopping || !queue.running()) return;
  mine.throttled = mine.starved = false;
  std::size_t taken = 0;
  queue.disable_notifications();
  // What is answered at once makes room for more: bounded, so that a guest cannot keep the loop.
  std::size_t budget = queue.state().size;
  do {
    while (has_room(index)) {
      if (budget-- == 0 || turn_ >= kMostAtOnce) {
        go_on_later();
        return;
      }
      Slot& slot = free_slot(index);
      if (!queue.pop(slot.chain)) break;
      mine.free.pop_back();
      if (take(index, slot)) {
        if (++taken % kPart == 0) serve_part(queue);
        continue;
      }
      queue.undo_pop();
      mine.free.push_back(&slot);
      mine.throttled = true;
      counters_.throttled.fetch_add(1, std::memory_order_relaxed);
      return;
    }
    if (queue.broken() != nullptr) {
      run_.transport->needs_reset(queue.broken());
      return;
    }
    serve_part(queue);
    if (!has_room(index)) {
      mine.starved = true;  // finish() makes room
      return;
    }
  } while (queue.enable_notifications());
}

bool VirtioBlock::has_room(unsigned index) const {
  const QueueState& queue = queues_[index];
  const bool slot = !queue.free.empty() || queue.slots.size() < run_.queues[index].state().size;
  return slot && in_flight_ < kMostAtOnce;
}

// What is in the host's page cache is done at once: a driver that polls sees it while we go on.
void VirtioBlock::serve_part(Queue& queue) {
  disk_.kick();
  disk_.reap();
  queue.publish();
}

void VirtioBlock::end_turn() {
  disk_.kick();
  disk_.reap();
  flush_queues();
  for (unsigned i = 0; i < queues_.size(); ++i) {
    QueueState& queue = queues_[i];
    if (queue.starved && has_room(i)) {
      queue.starved = false;
      go_on_later();
    }
    check_stopped(i);
  }
}

void VirtioBlock::go_on_later() {
  if (std::exchange(posted_, true)) return;
  loop_.post([this] {  // stopping waits for it
    posted_ = false;
    batch_done();
  });
}

bool VirtioBlock::take(unsigned /*index*/, Slot& slot) {
  Header header{};
  const bool whole = slot.chain.copy_out(0, std::as_writable_bytes(std::span(&header, 1)));
  const std::uint64_t writable = slot.chain.writable_size();
  const std::uint64_t readable = slot.chain.readable_size();
  const std::uint64_t data = !whole                    ? 0
                             : header.type == kTypeIn  ? (writable == 0 ? 0 : writable - 1)
                             : header.type == kTypeOut ? readable - sizeof header
                                                       : 0;
  if (!limit_.take(data)) return false;
  slot.range = slot.range_count = 0;
  slot.op = DiskOp::Read;
  slot.buffers.clear();
  slot.error = 0;
  if (!whole || writable == 0) {
    counters_.invalid.fetch_add(1, std::memory_order_relaxed);
    finish(slot, kIoError);
    return true;
  }
  switch (header.type) {
    case kTypeIn:
      slot.length = data;
      begin_transfer(slot, /*write=*/false, header.sector);
      break;
    case kTypeOut:
      slot.length = data;
      begin_transfer(slot, /*write=*/true, header.sector);
      break;
    case kTypeFlush:
      slot.op = DiskOp::Flush;
      counters_.flushes.fetch_add(1, std::memory_order_relaxed);
      charge(slot, kFlushCost);
      disk_.submit(slot);
      break;
    case kTypeGetId:
      answer_serial(slot);
      break;
    case kTypeWriteZeroes:
      begin_ranges(slot, /*zeroes=*/true);
      break;
    case kTypeDiscard:
      if (config_.discard) {
        begin_ranges(slot, /*zeroes=*/false);
        break;
      }
      [[fallthrough]];
    default:
      finish(slot, kUnsupported);
  }
  return true;
}

void VirtioBlock::begin_transfer(Slot& slot, bool write, std::uint64_t sector) {
  std::uint64_t sectors = 0;
  {
    const std::lock_guard lock(mutex_);
    sectors = state_.sectors;
  }
  const std::vector<Segment>& segments = write ? slot.chain.readable : slot.chain.writable;
  const bool too_large =
      slot.length > kMostOfRequest ||
      ((run_.features & kSizeMax) != 0 && std::any_of(segments.begin(), segments.end(), [](const Segment& s) {
         return s.length > kMaxSegment;
       }));
  if (too_large || slot.length == 0 || slot.length % kSector != 0 ||
      !within(sector, slot.length / kSector, sectors) || (write && disk_.readonly())) {
    counters_.invalid.fetch_add(1, std::memory_order_relaxed);
    finish(slot, kIoError);
    return;
  }
  slot.op = write ? DiskOp::Write : DiskOp::Read;
  slot.sync = write && (run_.features & kFlush) == 0;
  slot.offset = sector * kSector;
  if (write) {
    append(slot.buffers, segments, sizeof(Header), slot.length);
  } else {
    append(slot.buffers, segments, 0, slot.length);
  }
  charge(slot, std::max<std::uint64_t>(slot.length, segments.size() * kLeastOfSegment));
  const auto bytes = static_cast<std::int64_t>(slot.length);
  (write ? counters_.writes : counters_.reads).fetch_add(1, std::memory_order_relaxed);
  (write ? counters_.write_bytes : counters_.read_bytes).fetch_add(bytes, std::memory_order_relaxed);
  disk_.submit(slot);
}

void VirtioBlock::begin_ranges(Slot& slot, bool zeroes) {
  std::uint64_t sectors = 0;
  {
    const std::lock_guard lock(mutex_);
    sectors = state_.sectors;
  }
  const std::uint64_t bytes = slot.chain.readable_size() - sizeof(Header);
  if (disk_.readonly() || bytes == 0 || bytes % sizeof(Range) != 0 || bytes > sizeof slot.ranges) {
    counters_.invalid.fetch_add(1, std::memory_order_relaxed);
    finish(slot, disk_.readonly() ? kIoError : kUnsupported);
    return;
  }
  slot.range_count = bytes / sizeof(Range);
  const std::span<Range> ranges(slot.ranges.data(), slot.range_count);
  static_cast<void>(slot.chain.copy_out(sizeof(Header), std::as_writable_bytes(ranges)));
  for (const Range& range : ranges) {
    // 5.2.6.2: unknown flags, and unmap of a discard, are unsupported.
    const bool flags_known = (range.flags & ~(zeroes ? kUnmap : 0U)) == 0;
    if (flags_known && range.sectors != 0 && range.sectors <= kMaxRangeSectors &&
        within(range.sector, range.sectors, sectors))
      continue;
    counters_.invalid.fetch_add(1, std::memory_order_relaxed);
    slot.range_count = 0;
    finish(slot, flags_known ? kIoError : kUnsupported);
    return;
  }
  slot.op = zeroes ? DiskOp::WriteZeroes : DiskOp::Discard;
  (zeroes ? counters_.write_zeroes : counters_.discards).fetch_add(1, std::memory_order_relaxed);
  charge(slot, kRangesCost);
  next_range(slot);
}

// In flight until finish() or hold().
void VirtioBlock::charge(Slot& slot, std::uint64_t cost) {
  slot.cost = cost;
  in_flight_ += cost;
  turn_ += cost;
}

void VirtioBlock::next_range(Slot& slot) {
  const Range& range = slot.ranges[slot.range];
  slot.offset = range.sector * kSector;
  slot.length = std::uint64_t{range.sectors} * kSector;
  slot.unmap = (range.flags & kUnmap) != 0 && config_.discard;
  disk_.submit(slot);
}

// 5.2.6: up to 20 bytes, padded with zeroes; no terminator where it is full.
void VirtioBlock::answer_serial(Slot& slot) {
  std::array<std::byte, kSerialSize> serial{};
  std::memcpy(serial.data(), config_.serial.data(), std::min(config_.serial.size(), kSerialSize));
  const std::uint64_t room = slot.chain.writable_size() - 1;
  const auto answer = std::span(serial).first(std::min<std::uint64_t>(room, kSerialSize));
  finish(slot, slot.chain.copy_in(0, answer) ? kOk : kIoError);
}

void VirtioBlock::finish(Slot& slot, std::uint8_t status) {
  if (slot.error != 0) {
    counters_.errors.fetch_add(1, std::memory_order_relaxed);
    // A guest of a full host can have one write fail and another succeed for ever: no event for each.
    if (status == kIoError && std::exchange(quiet_, kQuietRequests) == 0)
      events_.backend_failed(unit_name_, fmt::format("{}: {}", disk_.name(), std::strerror(slot.error)));
  } else if (quiet_ > 0) {
    --quiet_;
  }
  const std::uint64_t writable = slot.chain.writable_size();
  if (writable != 0) {
    static_cast<void>(slot.chain.copy_in(writable - 1, std::as_bytes(std::span(&status, 1))));
  }
  // All of it, since the answer is its last byte and a failed read may have filled some.
  const std::uint64_t most = std::numeric_limits<std::uint32_t>::max();
  run_.queues[slot.queue].push(slot.chain, static_cast<std::uint32_t>(std::min(writable, most)));
  in_flight_ -= std::exchange(slot.cost, 0);
  queues_[slot.queue].free.push_back(&slot);
}

void VirtioBlock::flush_queues() {
  for (unsigned i = 0; i < run_.queues.size(); ++i) {
    if (run_.queues[i].flush()) run_.transport->interrupt_queue(i);
  }
}

void VirtioBlock::batch_done() {
  flush_queues();
  turn_ = 0;
  // Where there is room for some only, another queue has the first turn each time.
  const std::size_t count = queues_.size();
  first_queue_ = (first_queue_ + 1) % count;
  for (std::size_t n = 0; n < count; ++n) {
    const std::size_t i = (first_queue_ + n) % count;
    if (!queues_[i].throttled) run_queue(static_cast<unsigned>(i));
  }
  end_turn();
}

void VirtioBlock::host_end_changed() {
  if (!running_) return;
  const auto size = disk_.size();
  if (!size) return;
  {
    const std::lock_guard lock(mutex_);
    if (*size / kSector <= state_.sectors) return;
    state_.sectors = *size / kSector;
  }
  run_.transport->interrupt_config();
}

Result<UnitState> VirtioBlock::save() const {
  const std::lock_guard lock(mutex_);
  const auto& [sectors] = state_;
  state::Disk message;
  message.set_sectors(sectors);
  if (const RateLimiter* limiter = limit_.limiter()) limiter->save(*message.mutable_rate_limiter());
  return pack_state(message);
}

// The guest knows the size: a smaller disk would fail it, a larger one it is told of by host_end_changed().
Status VirtioBlock::restore(const UnitState& state) {
  state::Disk message;
  VMMD_TRY(unpack_state(state, unit_name(), 1, message));
  RateLimiter* limiter = limit_.limiter();
  const std::lock_guard lock(mutex_);
  if (message.sectors() > state_.sectors) {
    return fail(ErrorCode::BadRequest,
                "unit {}: the guest knows a disk of {} sectors of 512 bytes, {} has {}", unit_name(),
                message.sectors(), disk_.name(), state_.sectors);
  }
  State next;
  auto& [sectors] = next;
  sectors = message.sectors();
  state_ = next;
  if (limiter != nullptr && message.has_rate_limiter()) limiter->restore(message.rate_limiter());
  return {};
}

std::map<std::string, std::int64_t> VirtioBlock::counters() const {
  return {{"reads", counters_.reads},
          {"writes", counters_.writes},
          {"flushes", counters_.flushes},
          {"discards", counters_.discards},
          {"write_zeroes", counters_.write_zeroes},
          {"read_bytes", counters_.read_bytes},
          {"write_bytes", counters_.write_bytes},
          {"errors", counters_.errors},
          {"held", counters_.held},
          {"invalid", counters_.invalid},
          {"throttled", counters_.throttled}};
}

}  // namespace vmmd::devices
