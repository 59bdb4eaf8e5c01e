#include "devices/virtio/pmem.h"

#include <array>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "proto/state.pb.h"

namespace vmmd::devices {

namespace {

// virtio 1.2, 5.19.6: requests and answers are one le32 each.
constexpr std::uint32_t kFlush = 0;
constexpr std::uint32_t kOk = 0;
constexpr std::uint32_t kIoError = 1;

}  // namespace

struct VirtioPmem::Slot : DiskRequest {
  VirtioPmem* device = nullptr;
  Chain chain;
};

VirtioPmem::VirtioPmem(Config config, Disk* disk, EventLoop& loop, DeviceEvents& events)
    : config_(std::move(config)),
      unit_name_("pmem:" + config_.id),
      disk_(disk),
      loop_(loop),
      events_(events) {
  for (unsigned i = 0; i < kQueueSize; ++i) {
    auto slot = std::make_unique<Slot>();
    slot->device = this;
    slot->op = DiskOp::Flush;
    slot->done = [](DiskRequest& request) {
      auto& mine = static_cast<Slot&>(request);
      mine.device->finish(mine, request.error == 0);
    };
    free_.push_back(slot.get());
    slots_.push_back(std::move(slot));
  }
}

VirtioPmem::~VirtioPmem() = default;

// struct virtio_pmem_config (5.19.4): start, size.
std::uint64_t VirtioPmem::read_config(std::uint64_t offset, unsigned width) {
  std::array<std::byte, 16> bytes{};
  for (std::size_t i = 0; i < 8; ++i) {
    bytes.at(i) = static_cast<std::byte>(config_.start >> (8 * i));
    bytes.at(8 + i) = static_cast<std::byte>(config_.size >> (8 * i));
  }
  return read_config_bytes(bytes, offset, width);
}

void VirtioPmem::start(const VirtioRun& run) {
  run_ = run;
  queue_stopped_ = reported_broken_ = false;
  if (disk_ != nullptr) {
    if (auto started = disk_->start(loop_, [this] { look_again(); }); !started) {
      events_.backend_failed(unit_name_, started.error().to_string());
      run_.transport->needs_reset("the file cannot be flushed");
      return;
    }
  }
  running_ = true;
  notify(0);
}

void VirtioPmem::stop(std::function<void()> stopped) {
  running_ = false;
  stopped_ = std::move(stopped);
  check_stopped();
}

void VirtioPmem::stop_queue(unsigned /*index*/, std::function<void()> stopped) {
  queue_stopped_ = true;
  stopped_queue_ = std::move(stopped);
  check_stopped();
}

void VirtioPmem::start_queue(unsigned index) {
  queue_stopped_ = false;
  notify(index);
}

void VirtioPmem::notify(unsigned /*index*/) {
  run_queue();
  if (running_ && disk_ != nullptr) disk_->kick();
  publish();
}

void VirtioPmem::look_again() {
  publish();
  notify(0);
  check_stopped();
}

void VirtioPmem::check_stopped() {
  if (posted_ || free_.size() != slots_.size()) return;
  if (stopped_queue_) std::exchange(stopped_queue_, nullptr)();
  if (!stopped_) return;
  if (disk_ != nullptr) disk_->stop();
  std::exchange(stopped_, nullptr)();
}

void VirtioPmem::run_queue() {
  if (!running_ || queue_stopped_ || run_.queues.empty() || !run_.queues[0].running()) return;
  Queue& queue = run_.queues[0];
  queue.disable_notifications();
  // What is answered at once makes room for more: bounded, so that a guest cannot keep the loop.
  unsigned budget = kQueueSize;
  do {
    while (!free_.empty()) {
      if (budget-- == 0) {
        if (std::exchange(posted_, true)) return;
        loop_.post([this] {  // stopping waits for it
          posted_ = false;
          look_again();
        });
        return;
      }
      Slot& slot = *free_.back();
      if (!queue.pop(slot.chain)) break;
      free_.pop_back();
      take(slot);
    }
    if (queue.broken() != nullptr || free_.empty())
      break;  // finish() makes room, and look_again() comes back
  } while (queue.enable_notifications());
}

void VirtioPmem::take(Slot& slot) {
  std::uint32_t type = 0;
  slot.error = 0;
  if (!slot.chain.copy_out(0, std::as_writable_bytes(std::span(&type, 1))) || type != kFlush) {
    invalid_.fetch_add(1, std::memory_order_relaxed);
    return finish(slot, false);
  }
  flushes_.fetch_add(1, std::memory_order_relaxed);
  if (disk_ == nullptr) return finish(slot, true);
  disk_->submit(slot);
}

void VirtioPmem::finish(Slot& slot, bool good) {
  if (slot.error != 0) {
    errors_.fetch_add(1, std::memory_order_relaxed);
    if (!std::exchange(failing_, true)) {
      events_.backend_failed(unit_name_,
                             fmt::format("cannot flush {}: {}", disk_->name(), std::strerror(slot.error)));
    }
  } else if (good) {
    failing_ = false;
  }
  const std::uint32_t answer = good ? kOk : kIoError;
  const bool room = slot.chain.copy_in(0, std::as_bytes(std::span(&answer, 1)));
  run_.queues[0].push(slot.chain, room ? sizeof answer : 0);
  free_.push_back(&slot);
}

void VirtioPmem::publish() {
  if (run_.queues.empty()) return;
  Queue& queue = run_.queues[0];
  if (queue.running() && queue.flush()) run_.transport->interrupt_queue(0);
  if (queue.broken() != nullptr && !std::exchange(reported_broken_, true)) {
    run_.transport->needs_reset(queue.broken());
  }
}

Result<UnitState> VirtioPmem::save() const {
  state::VirtioPmem message;
  message.set_start(config_.start);
  message.set_size(config_.size);
  return pack_state(message);
}

Status VirtioPmem::restore(const UnitState& state) {
  state::VirtioPmem message;
  VMMD_TRY(unpack_state(state, unit_name(), 1, message));
  if (message.start() != config_.start || message.size() != config_.size) {
    return fail(ErrorCode::BadRequest,
                "unit {}: the guest knows {} bytes at {:#x}, and here are {} at {:#x}; give the file of the "
                "same size",
                unit_name(), message.size(), message.start(), config_.size, config_.start);
  }
  return {};
}

std::map<std::string, std::int64_t> VirtioPmem::counters() const {
  return {{"errors", errors_}, {"flushes", flushes_}, {"invalid", invalid_}};
}

}  // namespace vmmd::devices
