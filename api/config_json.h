#pragma once

#include <string>
#include <string_view>

#include "api/config.h"
#include "base/result.h"

namespace vmmd::api {

/// Reads a VmConfig, strictly. Unknown and duplicate fields, wrong types, numbers out of range and missing
/// fields are BadRequest; the error has one message per mistake, each starting with its JSON pointer
/// ("/memory/size: expected an unsigned integer, got a string"). `null` means "not given" for optional fields
/// and lists. boot_vcpus and max_vcpus may be given alone: the other one equals it. Only the shape is checked
/// here; see validate().
[[nodiscard]] Result<VmConfig> parse_vm_config(std::string_view json);

/// Every field with its default filled in, except optional ones that are not set. Reads back as the same
/// VmConfig.
[[nodiscard]] std::string to_json(const VmConfig& config, bool pretty = false);

}  // namespace vmmd::api
