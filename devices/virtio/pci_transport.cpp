#include "devices/virtio/pci_transport.h"

#include <sys/eventfd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <utility>

namespace vmmd::devices {

namespace {

// BAR 0, a page for each structure.
constexpr std::uint32_t kCommon = 0x0000;
constexpr std::uint32_t kIsr = 0x1000;
constexpr std::uint32_t kDevice = 0x2000;
constexpr std::uint32_t kNotify = 0x3000;
constexpr std::uint32_t kTable = 0x4000;
constexpr std::uint32_t kPending = 0x5000;
constexpr std::uint32_t kPage = 0x1000;
constexpr std::uint32_t kNotifyMultiplier = 4;

// struct virtio_pci_cap (4.1.4) and its types.
constexpr std::uint8_t kCommonCfg = 1;
constexpr std::uint8_t kNotifyCfg = 2;
constexpr std::uint8_t kIsrCfg = 3;
constexpr std::uint8_t kDeviceCfg = 4;
constexpr std::uint8_t kPciCfg = 5;
constexpr unsigned kCapBar = 4;
constexpr unsigned kCapOffset = 8;
constexpr unsigned kCapLength = 12;
constexpr unsigned kCapData = 16;  // of kPciCfg

ConfigSpace::Identity identity_of(VirtioType type) {
  const std::uint32_t class_code = type == VirtioType::Net     ? 0x02'00'00
                                   : type == VirtioType::Block ? 0x01'80'00
                                                               : 0xff'ff'00;
  const auto id = static_cast<std::uint16_t>(0x1040 + static_cast<unsigned>(type));
  return {.vendor_id = 0x1af4,
          .device_id = id,
          .class_code = class_code,
          .revision = 1,
          .subsystem_vendor_id = 0x1af4,
          .subsystem_id = id};
}

unsigned add_capability(CapabilityChain& chain, std::uint8_t type, std::uint32_t offset, std::uint32_t length,
                        bool extra_word, std::uint32_t extra = 0) {
  std::array<std::uint8_t, 18> body{};
  const auto put = [&body](unsigned at, std::uint32_t value) {
    for (unsigned i = 0; i < 4; ++i) body.at(at - 2 + i) = static_cast<std::uint8_t>(value >> (8 * i));
  };
  const unsigned size = extra_word ? 20 : 16;
  body[0] = static_cast<std::uint8_t>(size);
  body[1] = type;
  put(kCapOffset, offset);
  put(kCapLength, length);
  put(kCapData, extra);
  return chain.add(kPciCapVendor, std::span(body).first(size - 2));
}

VirtioRegisters::Limits limits_of(const VirtioDevice& device) {
  const auto sizes = device.queue_sizes();
  const auto vectors = static_cast<unsigned>(sizes.size() + 1);
  return {.features =
              device.features() | kVirtioIndirectDesc | kVirtioEventIdx | kVirtioVersion1 | kVirtioRingReset,
          .queue_sizes = sizes,
          .vectors = vectors};
}

bool natural(std::uint64_t offset, unsigned width) {
  return offset % width == 0;
}

}  // namespace

VirtioPci::VirtioPci(VirtioDevice& device, Glue glue)
    : device_(device),
      glue_(std::move(glue)),
      unit_name_(std::string(device.unit_name()) + "/pci"),
      space_(identity_of(device.type())),
      power_on_(space_),
      msix_(limits_of(device).vectors, *glue_.msi),
      intx_(*glue_.line),
      bars_(std::string(device.unit_name()), space_, *glue_.mmio, glue_.windows),
      registers_(limits_of(device)),
      queues_(registers_.limits().queue_sizes.size()),
      runs_(queues_.size()),
      alive_(std::make_shared<VirtioPci*>(this)) {
  build_config_space();
}

void VirtioPci::build_config_space() {
  CapabilityChain chain(space_);
  add_capability(chain, kCommonCfg, kCommon, VirtioRegisters::kSize, false);
  add_capability(chain, kNotifyCfg, kNotify, static_cast<std::uint32_t>(kNotifyMultiplier * queues_.size()),
                 true, kNotifyMultiplier);
  add_capability(chain, kIsrCfg, kIsr, 1, false);
  add_capability(chain, kDeviceCfg, kDevice, kPage, false);
  window_ = add_capability(chain, kPciCfg, 0, 0, true);
  space_.set_writable(window_ + kCapBar, 1, 0xff);
  for (const unsigned field : {kCapOffset, kCapLength, kCapData}) {
    space_.set_writable(window_ + field, 4, 0xffff'ffff);
  }
  msix_.add_capability(chain, space_, {.bar = 0, .table = kTable, .pending = kPending});
  space_.set(kPciInterruptPin, 1, 1);  // INTA
  bars_.add(0, kBarSize, *this, glue_.bar_address);
  power_on_ = space_;
}

Result<std::unique_ptr<VirtioPci>> VirtioPci::create(VirtioDevice& device, Glue glue) {
  std::unique_ptr<VirtioPci> transport(new VirtioPci(device, std::move(glue)));
  for (QueueRun& run : transport->runs_) {
    run.notified.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!run.notified) {
      return fail_errno(ErrorCode::Internal, errno, "cannot make an eventfd for a queue of {}",
                        device.unit_name());
    }
  }
  return transport;
}

VirtioPci::~VirtioPci() {
  for (const QueueRun& run : runs_) {
    if (run.io_event != 0) glue_.io_events->remove(run.io_event, run.notified.get());
  }
}

std::uint32_t VirtioPci::read_config(unsigned offset, unsigned width) {
  if (offset <= window_ + kCapData && window_ + kCapData < offset + width) access_window(false);
  const Lock lock(mutex_);
  return intx_.with_status(offset, width, space_.read(offset, width));
}

void VirtioPci::write_config(unsigned offset, unsigned width, std::uint32_t value) {
  {
    const Lock lock(mutex_);
    space_.write(offset, width, value);
    config_changed();
    post_reconcile();
  }
  if (offset <= window_ + kCapData && window_ + kCapData < offset + width) access_window(true);
}

void VirtioPci::config_changed() {
  bars_.update();
  msix_.update(space_);
  intx_.update(space_, msix_.enabled());
  sync_io_events();
}

// The PCI configuration access capability (4.1.4.9): BAR 0 for those who cannot map it. Only one access at a
// time comes here (the root's lock), so the data register is ours between the two locks.
void VirtioPci::access_window(bool is_write) {
  std::uint32_t bar = 0;
  std::uint32_t offset = 0;
  std::uint32_t length = 0;
  std::uint32_t data = 0;
  {
    const Lock lock(mutex_);
    bar = space_.read(window_ + kCapBar, 1);
    offset = space_.read(window_ + kCapOffset, 4);
    length = space_.read(window_ + kCapLength, 4);
    data = space_.read(window_ + kCapData, 4);
  }
  const bool allowed =
      bar == 0 && (length == 1 || length == 2 || length == 4) && offset < kBarSize && natural(offset, length);
  if (!allowed) return;
  if (is_write) {
    write(offset, length, data & all_ones(length));
    return;
  }
  const auto value = static_cast<std::uint32_t>(read(offset, length));
  const Lock lock(mutex_);
  space_.set(window_ + kCapData, 4, value);
}

std::uint64_t VirtioPci::read(std::uint64_t offset, unsigned width) {
  if (!natural(offset, width)) return all_ones(width);
  const std::uint64_t within = offset % kPage;
  switch (offset - within) {
    case kCommon: {
      const Lock lock(mutex_);
      return registers_.read(within, width);
    }
    case kIsr: {
      const Lock lock(mutex_);
      if (within != 0) return 0;
      intx_.set_pending(false);
      return std::exchange(registers_.state().isr, std::uint8_t{0});
    }
    case kDevice:
      return device_.read_config(within, width);
    case kTable:
      return msix_.read_table(within, width);
    case kPending:
      return msix_.read_pending(within, width);
    default:
      return 0;
  }
}

void VirtioPci::write(std::uint64_t offset, unsigned width, std::uint64_t value) {
  if (!natural(offset, width)) return;
  const std::uint64_t within = offset % kPage;
  switch (offset - within) {
    case kCommon:
      write_common(within, width, value);
      break;
    case kDevice:
      device_.write_config(within, width, value);
      break;
    case kNotify: {
      const std::uint64_t index = within / kNotifyMultiplier;
      if (within % kNotifyMultiplier != 0 || index >= runs_.size()) return;
      const Lock lock(mutex_);
      if (!registers_.live() || !registers_.state().queues[index].ring.enabled) return;
      counters_.mmio_notifications.fetch_add(1, std::memory_order_relaxed);
      static_cast<void>(::eventfd_write(runs_[index].notified.get(), 1));
      break;
    }
    case kTable:
      msix_.write_table(within, width, value);
      break;
    default:
      break;
  }
}

void VirtioPci::write_common(std::uint64_t offset, unsigned width, std::uint64_t value) {
  using Effect = VirtioRegisters::Effect;
  const Lock lock(mutex_);
  const Effect effect = registers_.write(offset, width, value);
  if (effect == Effect::None) return;
  if (effect == Effect::Reset) {
    counters_.resets.fetch_add(1, std::memory_order_relaxed);
    intx_.set_pending(false);
    if (phase_ == Phase::Stopped) {
      registers_.reset();  // drivers that do not wait see status 0 at once
      reset_device_ = true;
    }
  }
  if (effect == Effect::QueueReset) counters_.queue_resets.fetch_add(1, std::memory_order_relaxed);
  // From here on a live device has rings in RAM: neither the loop nor restore() meets others.
  if (registers_.live() && !rings_valid()) break_device("a ring is not aligned or not in RAM");
  sync_io_events();
  post_reconcile();
}

void VirtioPci::sync_io_events() {
  const auto bar = bars_.address(0);
  for (unsigned i = 0; i < runs_.size(); ++i) {
    const auto& queue = registers_.state().queues[i];
    const bool wanted = bar && registers_.live() && queue.ring.enabled && !queue.resetting;
    const std::uint64_t address = wanted ? *bar + kNotify + std::uint64_t{kNotifyMultiplier} * i : 0;
    QueueRun& run = runs_[i];
    if (address == run.io_event) continue;
    if (run.io_event != 0) glue_.io_events->remove(run.io_event, run.notified.get());
    // Without one, each notification is a write that reaches us.
    const bool added = address != 0 && glue_.io_events->add(address, run.notified.get()).has_value();
    run.io_event = added ? address : 0;
  }
}

void VirtioPci::interrupt(std::uint16_t vector, std::uint8_t isr) {
  if (msix_.enabled()) {
    if (vector != kVirtioNoVector) msix_.signal(vector);
    return;
  }
  registers_.state().isr |= isr;
  counters_.intx.fetch_add(1, std::memory_order_relaxed);
  intx_.set_pending(true);
}

void VirtioPci::interrupt_queue(unsigned index) {
  const Lock lock(mutex_);
  interrupt(registers_.state().queues.at(index).vector, kVirtioIsrQueue);
}

void VirtioPci::interrupt_config() {
  const Lock lock(mutex_);
  ++registers_.state().config_generation;
  if (registers_.live()) interrupt(registers_.state().config_vector, kVirtioIsrConfig);
}

void VirtioPci::needs_reset(std::string_view reason) {
  const Lock lock(mutex_);
  if (registers_.live()) break_device(reason);
  post_reconcile();
}

void VirtioPci::break_device(std::string_view reason) {
  const auto times =
      static_cast<std::uint64_t>(counters_.needs_reset.fetch_add(1, std::memory_order_relaxed) + 1);
  // A guest may do this for ever, so ever more seldom: 64 times at most.
  if (glue_.events != nullptr && std::has_single_bit(times))
    glue_.events->needs_reset(device_.unit_name(), reason, times);
  registers_.state().status |= kVirtioNeedsReset;
  interrupt(registers_.state().config_vector, kVirtioIsrConfig);
  sync_io_events();
}

std::map<std::string, std::int64_t> VirtioPci::counters() const {
  return {{"notifications", counters_.notifications},
          {"mmio_notifications", counters_.mmio_notifications},
          {"msix_interrupts", msix_.sent()},
          {"intx_interrupts", counters_.intx},
          {"resets", counters_.resets},
          {"queue_resets", counters_.queue_resets},
          {"needs_reset", counters_.needs_reset}};
}

}  // namespace vmmd::devices
