#include "devices/pci/bars.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

namespace vmmd::devices {

namespace {

constexpr std::uint32_t kMemory64 = 0b100;  // memory, 64 bits, not prefetchable
constexpr std::uint64_t kTypeBits = 0xf;

constexpr unsigned register_of(unsigned index) {
  return kPciBar0 + 4 * index;
}

}  // namespace

Bars::Bars(std::string name, ConfigSpace& space, Bus& bus, std::vector<PciWindow> windows, Moved moved)
    : name_(std::move(name)),
      space_(space),
      bus_(bus),
      windows_(std::move(windows)),
      moved_(std::move(moved)) {}

Bars::~Bars() {
  for (const Bar& bar : bars_) {
    if (bar.mapped) static_cast<void>(bus_.unmap(*bar.mapped));
  }
}

void Bars::add(unsigned index, std::uint64_t size, BusDevice& device, std::uint64_t address) {
  bars_.at(index) = {size, &device, std::nullopt};
  const std::uint64_t mask = ~(size - 1);
  const unsigned at = register_of(index);
  space_.set(at, 4, static_cast<std::uint32_t>(address & mask) | kMemory64);
  space_.set(at + 4, 4, static_cast<std::uint32_t>(address >> 32));
  space_.set_writable(at, 4, static_cast<std::uint32_t>(mask & ~kTypeBits));
  space_.set_writable(at + 4, 4, static_cast<std::uint32_t>(mask >> 32));
}

std::optional<std::uint64_t> Bars::wanted(unsigned index) const {
  if ((space_.command() & kPciCommandMemory) == 0) return std::nullopt;
  const unsigned at = register_of(index);
  const std::uint64_t address =
      (space_.read(at, 4) | std::uint64_t{space_.read(at + 4, 4)} << 32) & ~kTypeBits;
  const std::uint64_t size = bars_.at(index).size;
  const bool inside = std::any_of(windows_.begin(), windows_.end(), [&](const PciWindow& w) {
    return address >= w.base && size <= w.size && address - w.base <= w.size - size;
  });
  if (address == 0 || !inside) return std::nullopt;
  return address;
}

void Bars::update() {
  for (unsigned index = 0; index < kRegisters; ++index) {
    Bar& bar = bars_.at(index);
    if (bar.size == 0) continue;
    const auto target = wanted(index);
    if (target == bar.mapped) continue;
    const auto before = bar.mapped;
    if (bar.mapped) static_cast<void>(bus_.unmap(*std::exchange(bar.mapped, std::nullopt)));
    if (target &&
        bus_.map({fmt::format("{} BAR {}", name_, index), *target, bar.size, kWidthAny, bar.device})) {
      bar.mapped = target;
    }
    if (moved_ && bar.mapped != before) moved_(index, bar.mapped);
  }
}

}  // namespace vmmd::devices
