#include "daemon/vm/virtio_devices.h"

#include <algorithm>
#include <condition_variable>
#include <latch>
#include <mutex>
#include <string>
#include <utility>

#include <fmt/ranges.h>

namespace vmmd::vm {

namespace {

/// Shared with the loops: a device that comes too late still finds it.
struct Drain {
  explicit Drain(std::size_t devices) : done(devices) {}
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<bool> done;
  std::size_t count = 0;
};

}  // namespace

VirtioDevices::~VirtioDevices() {
  const auto gone = std::make_shared<std::latch>(static_cast<std::ptrdiff_t>(places_.size()));
  for (Place& place : places_) {
    static_cast<void>(root_.remove_device(place.slot));
    place.model->loop().post([&place, gone] {
      place.transport.reset();
      place.model.reset();
      gone->count_down();
    });
  }
  gone->wait();
}

devices::EventLoop& VirtioDevices::share(unsigned slot, loop::DeviceLoop& loop) {
  return shares_.emplace_back(loop, slot);
}

Status VirtioDevices::add(unsigned slot, std::unique_ptr<devices::VirtioDevice> model,
                          devices::VirtioPci::Glue glue) {
  VMMD_ASSIGN(auto transport, devices::VirtioPci::create(*model, std::move(glue)));
  VMMD_TRY(root_.add_device(slot, transport.get()));
  const auto share = std::find_if(shares_.begin(), shares_.end(),
                                  [slot](const loop::LoopShare& each) { return each.owner() == slot; });
  places_.push_back(
      {slot, share != shares_.end() ? &*share : nullptr, std::move(model), std::move(transport)});
  return {};
}

Status VirtioDevices::pause(Others others) {
  const auto drain = std::make_shared<Drain>(places_.size());
  for (std::size_t i = 0; i < places_.size(); ++i) {
    places_[i].transport->pause([drain, i] {
      const std::lock_guard lock(drain->mutex);
      drain->done[i] = true;
      if (++drain->count == drain->done.size()) drain->changed.notify_one();
    });
  }
  std::unique_lock lock(drain->mutex);
  if (drain->changed.wait_for(lock, drain_limit_, [&] { return drain->count == places_.size(); })) return {};
  std::vector<const Place*> late;
  for (std::size_t i = 0; i < places_.size(); ++i) {
    if (!drain->done[i]) late.push_back(&places_[i]);
  }
  lock.unlock();
  const std::vector<std::string> names = to_blame(late);
  if (others == Others::RunOn) resume();
  return fail(ErrorCode::Internal, "{} did not complete what is in flight within {} ms: {}",
              names.size() == 1 ? "a device" : "devices", drain_limit_.count(), fmt::join(names, ", "));
}

// Of those that share a thread: the one that has it just now; else those that have been asked to stop and
// have not; else, as a thread may come late to all its work, every one.
std::vector<std::string> VirtioDevices::to_blame(const std::vector<const Place*>& late) const {
  const auto any = [&](const Place& place, auto is) {
    return std::any_of(late.begin(), late.end(), [&](const Place* other) {
      const bool one_thread = place.share == nullptr || other->share == nullptr
                                  ? other == &place
                                  : &other->share->loop() == &place.share->loop();
      return one_thread && is(*other);
    });
  };
  const auto has_it = [](const Place& p) { return p.share != nullptr && p.share->has_the_thread(); };
  const auto stops = [](const Place& p) { return p.transport->is_stopping(); };
  std::vector<std::string> names;
  for (const Place* place : late) {
    const bool blamed = any(*place, has_it) ? has_it(*place) : any(*place, stops) ? stops(*place) : true;
    if (blamed) names.emplace_back(place->model->unit_name());
  }
  return names;
}

void VirtioDevices::resume() {
  for (const Place& place : places_) place.transport->resume();
}

void VirtioDevices::host_end_changed(unsigned slot) {
  for (const Place& place : places_) {
    if (place.slot != slot) continue;
    // Before our end, which posts the model's.
    place.model->loop().post([model = place.model.get()] { model->host_end_changed(); });
  }
}

std::vector<devices::StateUnit*> VirtioDevices::units() const {
  std::vector<devices::StateUnit*> units;
  for (const Place& place : places_) {
    units.push_back(place.model.get());
    units.push_back(place.transport.get());
  }
  return units;
}

std::vector<std::string> VirtioDevices::waiting_for_host() const {
  std::vector<std::string> ids;
  for (const Place& place : places_) {
    const std::string_view unit = place.model->unit_name();  // "disk:root"
    if (place.transport->waits_for_host()) ids.emplace_back(unit.substr(unit.find(':') + 1));
  }
  return ids;
}

devices::VirtioDevice* VirtioDevices::find(devices::VirtioType type) const {
  for (const Place& place : places_) {
    if (place.model->type() == type) return place.model.get();
  }
  return nullptr;
}

std::vector<unsigned> VirtioDevices::slots() const {
  std::vector<unsigned> slots;
  slots.reserve(places_.size());
  for (const Place& place : places_) slots.push_back(place.slot);
  return slots;
}

}  // namespace vmmd::vm
