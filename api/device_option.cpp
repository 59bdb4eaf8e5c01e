#include "api/device_option.h"

#include <string>
#include <utility>

namespace vmmd::api {

namespace {

Status read_bucket(const OptionText& options, std::string_view option, const std::string& prefix,
                   std::optional<TokenBucket>& out) {
  TokenBucket bucket;
  VMMD_TRY(options.read_size(prefix + "_size", bucket.size));
  VMMD_TRY(options.read_size(prefix + "_one_time_burst", bucket.one_time_burst));
  VMMD_TRY(options.read_size(prefix + "_refill_time", bucket.refill_time));
  const bool size = options.has(prefix + "_size");
  if (size != options.has(prefix + "_refill_time")) {
    return fail(ErrorCode::BadRequest, "{0}: {1}_size and {1}_refill_time need each other", option, prefix);
  }
  if (size) out = bucket;
  return {};
}

}  // namespace

Status read_pci(const OptionText& options, PciDeviceConfig& out) {
  options.read_string("id", out.id);
  VMMD_TRY(options.read_toggle("iommu", out.iommu));
  VMMD_TRY(read_small(options, "pci_segment", out.pci_segment, 0));
  if (options.has("pci_device_id")) {
    VMMD_TRY(read_small(options, "pci_device_id", out.pci_device_id.emplace(), 0));
  }
  return {};
}

Status read_rate_limits(const OptionText& options, std::string_view option,
                        std::optional<RateLimiterConfig>& out) {
  RateLimiterConfig limits;
  VMMD_TRY(read_bucket(options, option, "bw", limits.bandwidth));
  VMMD_TRY(read_bucket(options, option, "ops", limits.ops));
  if (limits != RateLimiterConfig()) out = limits;
  return {};
}

Result<std::vector<std::pair<unsigned, std::vector<unsigned>>>> parse_affinity_list(std::string_view text,
                                                                                    unsigned max,
                                                                                    std::string_view what) {
  VMMD_ASSIGN(const auto pieces, split_list(text));
  std::vector<std::pair<unsigned, std::vector<unsigned>>> out;
  for (const std::string_view piece : pieces) {
    const auto at = piece.find('@');
    if (at == std::string_view::npos) {
      return fail(ErrorCode::BadRequest, "\"{}\" is not {}@[HOST CPUS]", piece, what);
    }
    VMMD_ASSIGN(const auto number, parse_number(piece.substr(0, at), 0, max));
    VMMD_ASSIGN(auto cpus, parse_cpu_list(piece.substr(at + 1)));
    out.emplace_back(static_cast<unsigned>(number), std::move(cpus));
  }
  return out;
}

}  // namespace vmmd::api
