#include "devices/virtio/net.h"

#include <algorithm>
#include <utility>

#include "devices/virtio/net_protocol.h"
#include "proto/state.pb.h"

namespace vmmd::devices {

namespace {

constexpr std::uint16_t kControlQueueSize = 64;
constexpr std::size_t kConfigSize = 12;  // MAC, status, pairs, MTU

std::uint64_t offered(const NetDevice::Config& config, const NetBackend& backend) {
  std::uint64_t offloads = 0;
  if (config.offload_csum) {
    offloads |= kNetCsumOffloads;
    if (config.offload_tso) offloads |= kNetTsoOffloads;
    if (config.offload_ufo) offloads |= kNetUfoOffloads;
  }
  offloads &= backend.offloads();
  std::uint64_t features =
      offloads | kNetMac | kNetStatus | kNetMergeBuffers | kNetCtrlQueue | kNetGuestAnnounce;
  if ((offloads & kNetGuestOffloads) != 0) features |= kNetCtrlGuestOffloads;
  if (config.mtu) features |= kNetMtu;
  if (config.pairs > 1) features |= kNetMultiQueue;
  return features;
}

}  // namespace

struct NetDevice::Pair {
  Pair(NetLink& link, unsigned pair, const Config& config)
      : rx(link, pair, 2 * pair, config.queue_size, config.rx_limiter),
        tx(link, pair, 2 * pair + 1, config.tx_limiter) {}
  NetReceiver rx;
  NetTransmitter tx;
};

NetDevice::NetDevice(Config config, NetBackend& backend, EventLoop& loop, DeviceEvents& events)
    : config_(std::move(config)),
      unit_("net:" + config_.id),
      events_(events),
      link_{.backend = backend,
            .loop = loop,
            .failed = [this] { backend_failed(); },
            .turn_ended = [this] { turn_ended(); },
            .counters = {}},
      features_(offered(config_, backend)),
      failed_(!backend.failure().empty()),
      status_(failed_ ? 0 : kNetStatusLinkUp),
      control_(link_, *this) {
  for (unsigned i = 0; i < config_.pairs; ++i) pairs_.push_back(std::make_unique<Pair>(link_, i, config_));
}

NetDevice::~NetDevice() = default;

std::vector<std::uint16_t> NetDevice::queue_sizes() const {
  std::vector<std::uint16_t> sizes(2 * std::size_t{config_.pairs}, config_.queue_size);
  sizes.push_back(kControlQueueSize);
  return sizes;
}

std::uint64_t NetDevice::read_config(std::uint64_t offset, unsigned width) {
  std::array<std::byte, kConfigSize> bytes{};
  const auto put = [&](std::size_t at, std::uint16_t value) {
    bytes.at(at) = static_cast<std::byte>(value & 0xffU);
    bytes.at(at + 1) = static_cast<std::byte>(value >> 8U);
  };
  for (std::size_t i = 0; i < config_.mac.size(); ++i) bytes.at(i) = std::byte{config_.mac.at(i)};
  put(6, status_.load());
  put(8, static_cast<std::uint16_t>(config_.pairs));
  put(10, config_.mtu.value_or(0));
  return read_config_bytes(bytes, offset, width);
}

unsigned NetDevice::control_index() const {
  return (run_.features & kNetMultiQueue) != 0 ? 2 * config_.pairs : 2;
}

void NetDevice::start(const VirtioRun& run) {
  run_ = run;
  running_ = true;
  link_.transport = run.transport;
  link_.merge_buffers = (run.features & kNetMergeBuffers) != 0;
  const std::uint64_t negotiated = run.features & kNetGuestOffloads;
  check(link_.backend.set_guest_offloads(state_.guest_offloads.value_or(negotiated) & negotiated));
  check(link_.backend.enable_pairs(state_.active_pairs));
  for (unsigned i = 0; i < run.queues.size(); ++i) start_queue(i);
  if (std::exchange(restored_, false) && running_) announce();
}

void NetDevice::start_queue(unsigned index) {
  if (!running_ || index >= run_.queues.size() || !run_.queues[index].running()) return;
  if (index == control_index()) {
    if ((run_.features & kNetCtrlQueue) != 0) control_.start(run_.queues[index], index);
  } else {
    start_pair_queue(index);
  }
}

// Those of pairs that are not in use wait: the host sends nothing there, and the driver must not.
void NetDevice::start_pair_queue(unsigned index) {
  const unsigned pair = index / 2;
  if (pair >= state_.active_pairs || pair >= pairs_.size() || !run_.queues[index].running()) return;
  if (index % 2 == 0) {
    pairs_[pair]->rx.start(run_.queues[index]);
  } else {
    pairs_[pair]->tx.start(run_.queues[index]);
  }
}

void NetDevice::stop(std::function<void()> stopped) {
  running_ = false;
  for (const auto& pair : pairs_) {
    pair->rx.stop();
    pair->tx.stop();
  }
  control_.stop();
  when_idle(std::move(stopped));
}

void NetDevice::stop_queue(unsigned index, std::function<void()> stopped) {
  if (index == control_index()) {
    control_.stop();
  } else if (index / 2 < pairs_.size()) {
    Pair& pair = *pairs_[index / 2];
    index % 2 == 0 ? pair.rx.stop() : pair.tx.stop();
  }
  when_idle(std::move(stopped));
}

// A turn that waits on the loop refers to this device: nobody may destroy it before.
void NetDevice::when_idle(std::function<void()> stopped) {
  if (link_.posted_turns == 0) return stopped();
  idle_waiters_.push_back(std::move(stopped));
}

void NetDevice::turn_ended() {
  if (link_.posted_turns != 0 || idle_waiters_.empty()) return;
  const auto waiters = std::exchange(idle_waiters_, {});
  for (const auto& stopped : waiters) stopped();
}

void NetDevice::notify(unsigned index) {
  if (!running_) return;
  if (index == control_index()) return control_.run();
  if (index / 2 >= state_.active_pairs || index / 2 >= pairs_.size()) return;
  Pair& pair = *pairs_[index / 2];
  index % 2 == 0 ? pair.rx.buffers_added() : pair.tx.run();
}

bool NetDevice::set_active_pairs(unsigned pairs) {
  if ((run_.features & kNetMultiQueue) == 0 || pairs == 0 || pairs > config_.pairs) return false;
  for (unsigned i = pairs; i < state_.active_pairs; ++i) {
    pairs_[i]->rx.stop();
    pairs_[i]->tx.stop();
  }
  const unsigned before = std::exchange(state_.active_pairs, pairs);
  check(link_.backend.enable_pairs(pairs));
  for (unsigned i = 2 * before; i < 2 * pairs; ++i) start_pair_queue(i);
  return true;
}

bool NetDevice::set_guest_offloads(std::uint64_t features) {
  const std::uint64_t negotiated = run_.features & kNetGuestOffloads;
  if ((run_.features & kNetCtrlGuestOffloads) == 0 || (features & ~negotiated) != 0) return false;
  if (!failed_ && !link_.backend.set_guest_offloads(features)) return false;
  state_.guest_offloads = features;
  return true;
}

bool NetDevice::acknowledge_announce() {
  if ((run_.features & kNetGuestAnnounce) == 0) return false;
  set_announce(false);
  return true;
}

void NetDevice::set_announce(bool on) {
  state_.announce = on;
  const std::uint16_t link = status_.load() & kNetStatusLinkUp;
  status_ = static_cast<std::uint16_t>(link | (on ? kNetStatusAnnounce : 0U));
}

// The network learns where the guest's address is now: from the guest, or where its driver cannot, from us.
void NetDevice::announce() {
  if (failed_) return;
  constexpr std::uint64_t kNeeded = kNetGuestAnnounce | kNetStatus | kNetCtrlQueue;
  if ((run_.features & kNeeded) != kNeeded) return send_rarp();
  set_announce(true);
  link_.transport->interrupt_config();
}

// As other monitors do (RFC 903, "request reverse" from and for the guest's MAC): switches look at the
// source.
void NetDevice::send_rarp() {
  std::array<std::uint8_t, kNetHeaderSize + 60> frame{};  // the shortest that Ethernet carries
  auto at = frame.begin() + kNetHeaderSize;
  const auto put = [&](const auto& bytes) { at = std::copy(bytes.begin(), bytes.end(), at); };
  put(std::array<std::uint8_t, 6>{0xff, 0xff, 0xff, 0xff, 0xff, 0xff});
  put(config_.mac);
  put(std::array<std::uint8_t, 10>{0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3});
  put(config_.mac);
  put(std::array<std::uint8_t, 4>{});
  put(config_.mac);
  const std::array<iovec, 1> buffers{{{frame.data(), frame.size()}}};
  if (link_.backend.send(0, buffers) == NetIo::Failed) backend_failed();
}

void NetDevice::check(const Status& status) {
  if (status || failed_) return;
  ++link_.counters.backend_failures;
  events_.backend_failed(unit_, status.error().to_string());
}

void NetDevice::backend_failed() {
  if (std::exchange(failed_, true)) return;
  for (const auto& pair : pairs_) pair->rx.stop_watching();
  ++link_.counters.backend_failures;
  events_.backend_failed(unit_, link_.backend.failure());
  status_ = static_cast<std::uint16_t>(status_.load() & ~kNetStatusLinkUp);
  if (running_ && (run_.features & kNetStatus) != 0) link_.transport->interrupt_config();
}

void NetDevice::reset() {
  state_ = {};
  restored_ = false;
  set_announce(false);
}

Result<UnitState> NetDevice::save() const {
  const auto& [active_pairs, guest_offloads, announce] = state_;
  state::Net message;
  message.set_active_pairs(active_pairs);
  if (guest_offloads) message.set_guest_offloads(*guest_offloads);
  message.set_announce(announce);
  if (config_.rx_limiter) config_.rx_limiter->save(*message.mutable_rx_limiter());
  if (config_.tx_limiter) config_.tx_limiter->save(*message.mutable_tx_limiter());
  return pack_state(message);
}

Status NetDevice::restore(const UnitState& state) {
  state::Net message;
  VMMD_TRY(unpack_state(state, unit_, 1, message));
  State next;
  auto& [active_pairs, guest_offloads, announce] = next;
  active_pairs = message.active_pairs();
  if (message.has_guest_offloads()) guest_offloads = message.guest_offloads();
  announce = message.announce();
  if (active_pairs == 0 || active_pairs > config_.pairs) {
    return fail(ErrorCode::BadRequest, "unit {}: {} of its {} queue pairs are said to be in use", unit_,
                active_pairs, config_.pairs);
  }
  if (guest_offloads && (*guest_offloads & ~(features_ & kNetGuestOffloads)) != 0) {
    return fail(ErrorCode::BadRequest,
                "unit {}: the guest uses offloads {:#x}, but {} has {:#x}: restore it on a network that can "
                "do the same",
                unit_, *guest_offloads, link_.backend.name(), features_ & kNetGuestOffloads);
  }
  if (config_.rx_limiter) config_.rx_limiter->restore(message.rx_limiter());
  if (config_.tx_limiter) config_.tx_limiter->restore(message.tx_limiter());
  state_ = next;
  set_announce(announce);
  restored_ = true;
  return {};
}

std::map<std::string, std::int64_t> NetDevice::counters() const {
  const NetCounters& c = link_.counters;
  return {{"rx_frames", c.rx_frames},
          {"rx_bytes", c.rx_bytes},
          {"rx_dropped", c.rx_dropped},
          {"tx_frames", c.tx_frames},
          {"tx_bytes", c.tx_bytes},
          {"tx_dropped", c.tx_dropped},
          {"limited", c.limited},
          {"backend_failures", c.backend_failures},
          {"control_commands", c.control_commands},
          {"control_refused", c.control_refused}};
}

}  // namespace vmmd::devices
