#pragma once

#include <string_view>

#include "api/field_rule.h"
#include "api/types.h"
#include "base/result.h"

namespace vmmd::api {

constexpr auto enum_names(SnapshotRequest::Mode) {
  using enum SnapshotRequest::Mode;
  return std::to_array<EnumName<SnapshotRequest::Mode>>(
      {{"auto", Auto}, {"copy", Copy}, {"link", Link}, {"reflink", Reflink}});
}

/// Cloud Hypervisor's names first: its clients and ours both know them.
constexpr auto enum_names(RestoreRequest::MemoryMode) {
  using enum RestoreRequest::MemoryMode;
  return std::to_array<EnumName<RestoreRequest::MemoryMode>>({{"CopyOnWrite", Cow},
                                                              {"Copy", Copy},
                                                              {"Shared", Shared},
                                                              {"copyonwrite", Cow},
                                                              {"cow", Cow},
                                                              {"copy", Copy},
                                                              {"shared", Shared}});
}

constexpr auto enum_names(RestoreRequest::Verify) {
  using enum RestoreRequest::Verify;
  return std::to_array<EnumName<RestoreRequest::Verify>>({{"none", None}, {"lazy", Lazy}, {"full", Full}});
}

constexpr auto enum_names(RestoreRequest::CpuCheck) {
  using enum RestoreRequest::CpuCheck;
  return std::to_array<EnumName<RestoreRequest::CpuCheck>>({{"strict", Strict}, {"ignore", Ignore}});
}

constexpr auto enum_names(RestoreRequest::Identity) {
  using enum RestoreRequest::Identity;
  return std::to_array<EnumName<RestoreRequest::Identity>>({{"new", New}, {"keep", Keep}});
}

constexpr auto enum_names(RestoreRequest::ClockMode) {
  using enum RestoreRequest::ClockMode;
  return std::to_array<EnumName<RestoreRequest::ClockMode>>({{"realtime", Realtime}, {"continue", Continue}});
}

/// "OnDemand" is Cloud Hypervisor's and not built: NotSupported.
[[nodiscard]] Result<RestoreRequest::MemoryMode> memory_mode_from_name(std::string_view name);

}  // namespace vmmd::api
