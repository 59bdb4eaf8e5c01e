#pragma once

#include "daemon/x86/acpi/aml.h"
#include "daemon/x86/acpi/tables.h"

namespace vmmd::x86 {

/// The DSDT's definition block without the table header: devices that cannot be discovered otherwise.
/// Every object costs the guest boot time (milliseconds each where ring 0 is emulated), so what ACPI
/// defaults is left out: _STA, _SEG 0, _BBN 0, _ADR of the root.
[[nodiscard]] aml::Bytes dsdt_body(const AcpiConfig& config);

}  // namespace vmmd::x86
