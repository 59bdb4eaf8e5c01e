#include "devices/chipset/acpi_pm1.h"

#include "proto/state.pb.h"

namespace vmmd::devices {

namespace {

constexpr std::uint16_t kPowerButton = 1U << 8;    // PWRBTN_STS and PWRBTN_EN
constexpr std::uint16_t kEnableWritable = 0x0721;  // RTC, sleep button, power button, global lock, timer
constexpr std::uint16_t kSciEnabled = 1U << 0;
constexpr std::uint16_t kSleepTypeMask = 7U << 10;
constexpr unsigned kSleepTypeShift = 10;
constexpr std::uint16_t kSleepEnable = 1U << 13;
constexpr std::uint16_t kControlWritable = kSleepTypeMask | 1U << 1;  // and BM_RLD

}  // namespace

AcpiPm1::AcpiPm1(InterruptLine& sci, PowerSink& sink, std::uint8_t s5_sleep_type)
    : s5_sleep_type_(s5_sleep_type), sci_(sci), sink_(sink) {}

void AcpiPm1::drive() {
  sci_.set_level((state_.status & state_.enable) != 0);
}

void AcpiPm1::power_button() {
  const std::lock_guard lock(mutex_);
  state_.status |= kPowerButton;
  drive();
}

std::uint64_t AcpiPm1::read(std::uint64_t offset, unsigned width) {
  if (offset >= kSize || width > kSize - offset) return all_ones(width);
  const std::lock_guard lock(mutex_);
  const std::uint64_t all = std::uint64_t{state_.status} | std::uint64_t{state_.enable} << 16 |
                            (std::uint64_t{state_.control} | kSciEnabled) << 32;
  return all >> (8 * offset) & all_ones(width);
}

void AcpiPm1::write(std::uint64_t offset, unsigned width, std::uint64_t value) {
  if (offset >= kSize || width > 2 || width > kSize - offset) return;
  const std::lock_guard lock(mutex_);
  for (unsigned i = 0; i < width; ++i) {
    const unsigned shift = (offset + i) % 2 != 0 ? 8 : 0;
    const unsigned byte = static_cast<unsigned>(value >> (8 * i) & 0xff) << shift;
    const unsigned mask = 0xffU << shift;
    switch ((offset + i) / 2) {
      case 0:  // written ones clear
        state_.status = static_cast<std::uint16_t>(state_.status & ~byte);
        break;
      case 1:
        state_.enable = static_cast<std::uint16_t>(((state_.enable & ~mask) | byte) & kEnableWritable);
        break;
      default:
        state_.control = static_cast<std::uint16_t>(((state_.control & ~mask) | byte) & kControlWritable);
        if ((byte & kSleepEnable) != 0 &&
            (state_.control & kSleepTypeMask) >> kSleepTypeShift == s5_sleep_type_) {
          sink_.request_shutdown();
        }
        break;
    }
  }
  drive();
}

Result<UnitState> AcpiPm1::save() const {
  const std::lock_guard lock(mutex_);
  const auto& [status, enable, control] = state_;
  state::AcpiPm1 message;
  message.set_status(status);
  message.set_enable(enable);
  message.set_control(control);
  return pack_state(message);
}

Status AcpiPm1::restore(const UnitState& state) {
  state::AcpiPm1 message;
  VMMD_TRY(unpack_state(state, unit_name(), 1, message));
  if ((message.status() & ~std::uint32_t{kPowerButton}) != 0 ||
      (message.enable() & ~std::uint32_t{kEnableWritable}) != 0 ||
      (message.control() & ~std::uint32_t{kControlWritable}) != 0) {
    return fail(ErrorCode::BadRequest,
                "unit {}: status {:#x}, enable {:#x} or control {:#x} has unknown bits", unit_name(),
                message.status(), message.enable(), message.control());
  }
  State next;
  auto& [status, enable, control] = next;
  status = static_cast<std::uint16_t>(message.status());
  enable = static_cast<std::uint16_t>(message.enable());
  control = static_cast<std::uint16_t>(message.control());
  const std::lock_guard lock(mutex_);
  state_ = next;
  drive();
  return {};
}

void AcpiPm1::reset() {
  const std::lock_guard lock(mutex_);
  state_ = {};
  drive();
}

}  // namespace vmmd::devices
