#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "api/config_device_fields.h"
#include "api/config_fields.h"

namespace vmmd::api {

/// Calls `use(pointer, pci)` for everything in VmConfig that is a device, by the field table: a new kind of
/// device cannot be forgotten.
template <class Use>
class DeviceVisitor {
 public:
  explicit DeviceVisitor(Use use) : use_(std::move(use)) {}

  template <class T>
  void operator()(std::string_view name, const T& member, const FieldRule& /*rule*/ = {}) {
    const std::string pointer = fmt::format("/{}", name);
    if constexpr (requires { member.pci; }) {
      use_(pointer, member.pci);
    } else if constexpr (requires { member.value().pci; }) {
      if (member) use_(pointer, member->pci);
    } else if constexpr (requires { member[0].pci; }) {
      for (std::size_t i = 0; i < member.size(); ++i) use_(fmt::format("{}/{}", pointer, i), member[i].pci);
    }
  }

 private:
  Use use_;
};

}  // namespace vmmd::api
