#pragma once

#include "api/config.h"
#include "api/field_rule.h"

namespace vmmd::api {

// As Cloud Hypervisor's JSON spells them. Its command line has the same words in lower case.

constexpr auto enum_names(CoreSchedulingMode) {
  using enum CoreSchedulingMode;
  return std::to_array<EnumName<CoreSchedulingMode>>({{"Vm", Vm}, {"Vcpu", Vcpu}, {"Off", Off}});
}

constexpr auto enum_names(HotplugMethod) {
  using enum HotplugMethod;
  return std::to_array<EnumName<HotplugMethod>>({{"Acpi", Acpi}, {"VirtioMem", VirtioMem}});
}

constexpr auto enum_names(ConsoleMode) {
  using enum ConsoleMode;
  return std::to_array<EnumName<ConsoleMode>>(
      {{"Off", Off}, {"Pty", Pty}, {"Tty", Tty}, {"File", File}, {"Socket", Socket}, {"Null", Null}});
}

constexpr auto enum_names(ImageType) {
  using enum ImageType;
  return std::to_array<EnumName<ImageType>>(
      {{"FixedVhd", FixedVhd}, {"Qcow2", Qcow2}, {"Raw", Raw}, {"Vhdx", Vhdx}, {"Unknown", Unknown}});
}

constexpr auto enum_names(LockGranularity) {
  using enum LockGranularity;
  return std::to_array<EnumName<LockGranularity>>({{"ByteRange", ByteRange}, {"Full", Full}});
}

constexpr auto enum_names(EnospcAction) {
  using enum EnospcAction;
  return std::to_array<EnumName<EnospcAction>>({{"Error", Error}, {"Pause", Pause}});
}

constexpr auto enum_names(VhostMode) {
  using enum VhostMode;
  return std::to_array<EnumName<VhostMode>>({{"Client", Client}, {"Server", Server}});
}

}  // namespace vmmd::api
