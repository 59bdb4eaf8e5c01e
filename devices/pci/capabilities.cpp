#include "devices/pci/capabilities.h"

#include <cstdlib>

namespace vmmd::devices {

namespace {
constexpr std::uint32_t kStatusCapabilities = 1U << 4;
constexpr unsigned kEnd = 0x100;
constexpr unsigned kHeader = 2;  // id, next
}  // namespace

unsigned CapabilityChain::add(std::uint8_t id, std::span<const std::uint8_t> body) {
  const unsigned at = next_;
  if (body.size() > kEnd - kHeader - at) std::abort();
  space_.set(kPciStatus, 2, space_.read(kPciStatus, 2) | kStatusCapabilities);
  space_.set(link_, 1, at);
  space_.set(at, 1, id);
  for (unsigned i = 0; i < body.size(); ++i) space_.set(at + kHeader + i, 1, body[i]);
  link_ = at + 1;
  next_ = (at + kHeader + static_cast<unsigned>(body.size()) + 3) & ~3U;
  return at;
}

}  // namespace vmmd::devices
