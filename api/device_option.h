#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string_view>
#include <vector>

#include "api/config_devices.h"
#include "api/option_text.h"

namespace vmmd::api {

// Keys that the options of several devices share.

template <class T>
Status read_small(const OptionText& options, std::string_view key, T& out, std::uint64_t min) {
  unsigned number = 0;
  if (!options.has(key)) return {};
  VMMD_TRY(options.read_number(key, number, min, std::numeric_limits<T>::max()));
  out = static_cast<T>(number);
  return {};
}

/// `id=,iommu=,pci_segment=,pci_device_id=`
Status read_pci(const OptionText& options, PciDeviceConfig& out);

/// `bw_size=,bw_one_time_burst=,bw_refill_time=,ops_size=,ops_one_time_burst=,ops_refill_time=`; `option` is
/// for the message.
Status read_rate_limits(const OptionText& options, std::string_view option,
                        std::optional<RateLimiterConfig>& out);

/// `[0@[0-1],1@[1]]`: numbers, each with its CPUs; up to `max`. `what` names the numbers in the message.
[[nodiscard]] Result<std::vector<std::pair<unsigned, std::vector<unsigned>>>> parse_affinity_list(
    std::string_view text, unsigned max, std::string_view what);

}  // namespace vmmd::api
