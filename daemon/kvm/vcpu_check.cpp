#include "daemon/kvm/vcpu_check.h"

#include <linux/kvm.h>

#include <cstdint>
#include <cstring>
#include <limits>
#include <string>

namespace vmmd::kvm {

namespace {

constexpr int kMaxCpuidLeaves = 256;  // KVM_MAX_CPUID_ENTRIES
constexpr int kMaxMsrs = 4096;
constexpr std::size_t kLapicSize = KVM_APIC_REG_SIZE;

// Intel SDM volume 3, 2.2.1 (EFER) and 2.5 (control registers); 10.4.4 (IA32_APIC_BASE).
constexpr std::uint64_t kCr0ProtectedMode = 1U << 0, kCr0NotWriteThrough = 1U << 29;
constexpr std::uint64_t kCr0CacheDisable = 1U << 30, kCr0Paging = 1U << 31;
constexpr std::uint64_t kCr4PhysicalAddressExtension = 1U << 5;
constexpr std::uint64_t kEferLongModeEnable = 1U << 8, kEferLongModeActive = 1U << 10;
constexpr std::uint64_t kApicReserved = 0x2FF, kApicX2 = 1U << 10, kApicEnabled = 1U << 11;
constexpr std::uint32_t kRightsLong = 1U << 13;  // of state::Segment
constexpr std::uint32_t kRightsMask = (1U << 17) - 1;

// SDM volume 1, 13.4: the legacy region, then the header.
constexpr std::size_t kMxcsr = 24, kXsaveHeader = 512;
constexpr std::size_t kXcompBv = kXsaveHeader + 8, kXsaveReservedEnd = kXsaveHeader + 64;

constexpr std::uint32_t kNmiVector = 2, kLastException = 31;
constexpr std::uint32_t kKnownEvents = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR |
                                       KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM |
                                       KVM_VCPUEVENT_VALID_PAYLOAD | KVM_VCPUEVENT_VALID_TRIPLE_FAULT;

template <class Register>
bool fits(std::uint64_t value) {
  return value <= std::numeric_limits<Register>::max();
}

Status check_sizes(const state::Vcpu& state, std::size_t xsave_size) {
  if (state.cpuid_size() == 0 || state.cpuid_size() > kMaxCpuidLeaves) {
    return fail(ErrorCode::BadRequest, "{} CPUID leaves; 1 to {} are possible", state.cpuid_size(),
                kMaxCpuidLeaves);
  }
  if (state.msrs_size() > kMaxMsrs) {
    return fail(ErrorCode::BadRequest, "{} MSRs; at most {} are possible", state.msrs_size(), kMaxMsrs);
  }
  if (state.lapic().size() != kLapicSize) {
    return fail(ErrorCode::BadRequest, "LAPIC state has {} bytes instead of {}", state.lapic().size(),
                kLapicSize);
  }
  if (state.xsave().size() < sizeof(kvm_xsave)) {
    return fail(ErrorCode::BadRequest, "the XSAVE area has {} bytes; at least {} are needed",
                state.xsave().size(), sizeof(kvm_xsave));
  }
  if (state.xsave().size() > xsave_size) {
    return fail(ErrorCode::BadRequest,
                "the XSAVE area has {} bytes, this host's CPU has {}: its extended state lacks a part",
                state.xsave().size(), xsave_size);
  }
  if (!state.has_regs() || !state.has_sregs() || !state.has_debug() || !state.has_events()) {
    return fail(ErrorCode::BadRequest, "registers are missing");
  }
  if (state.mp_state() > KVM_MP_STATE_SIPI_RECEIVED) {
    return fail(ErrorCode::BadRequest, "mp_state {} is unknown", state.mp_state());
  }
  return {};
}

Status check_xsave(const std::string& area) {
  std::uint32_t mxcsr = 0;
  std::memcpy(&mxcsr, area.data() + kMxcsr, sizeof mxcsr);
  if (!fits<std::uint16_t>(mxcsr)) {
    return fail(ErrorCode::BadRequest, "MXCSR is {:#x}: its upper half is reserved", mxcsr);
  }
  if (area.find_first_not_of('\0', kXcompBv) < kXsaveReservedEnd) {
    return fail(ErrorCode::BadRequest, "the XSAVE area is compacted, or its header's reserved bytes are set");
  }
  return {};
}

Status check_segments(const state::SpecialRegisters& sregs) {
  for (const state::Segment* segment : {&sregs.cs(), &sregs.ds(), &sregs.es(), &sregs.fs(), &sregs.gs(),
                                        &sregs.ss(), &sregs.tr(), &sregs.ldt()}) {
    if (fits<std::uint16_t>(segment->selector()) && segment->access_rights() <= kRightsMask) continue;
    return fail(ErrorCode::BadRequest, "no segment has selector {:#x} and access rights {:#x}",
                segment->selector(), segment->access_rights());
  }
  for (const state::DescriptorTable* table : {&sregs.gdt(), &sregs.idt()}) {
    if (fits<std::uint16_t>(table->limit())) continue;
    return fail(ErrorCode::BadRequest, "no descriptor table has the limit {:#x}", table->limit());
  }
  return {};
}

Status check_special(const state::SpecialRegisters& sregs) {
  VMMD_TRY(check_segments(sregs));
  const std::uint64_t cr0 = sregs.cr0();
  if (!fits<std::uint32_t>(cr0) || ((cr0 & kCr0Paging) != 0 && (cr0 & kCr0ProtectedMode) == 0) ||
      ((cr0 & kCr0NotWriteThrough) != 0 && (cr0 & kCr0CacheDisable) == 0)) {
    return fail(ErrorCode::BadRequest, "CR0 cannot be {:#x}", cr0);
  }
  const bool long_mode = (sregs.efer() & kEferLongModeEnable) != 0 && (cr0 & kCr0Paging) != 0;
  const bool active = (sregs.efer() & kEferLongModeActive) != 0;
  const bool wide_code = (sregs.cs().access_rights() & kRightsLong) != 0;
  if (long_mode ? !active || (sregs.cr4() & kCr4PhysicalAddressExtension) == 0 : active || wide_code) {
    return fail(ErrorCode::BadRequest,
                "no mode has EFER {:#x} with CR0 {:#x}, CR4 {:#x} and CS access rights {:#x}", sregs.efer(),
                cr0, sregs.cr4(), sregs.cs().access_rights());
  }
  if (sregs.cr8() > 15) return fail(ErrorCode::BadRequest, "CR8 cannot be {:#x}", sregs.cr8());
  const std::uint64_t apic = sregs.apic_base();
  if ((apic & kApicReserved) != 0 || ((apic & kApicX2) != 0 && (apic & kApicEnabled) == 0)) {
    return fail(ErrorCode::BadRequest, "the APIC base cannot be {:#x}", apic);
  }
  if (sregs.pending_interrupt() > 256) {
    return fail(ErrorCode::BadRequest, "interrupt {} cannot be pending", sregs.pending_interrupt() - 1);
  }
  return {};
}

Status check_debug(const state::DebugRegisters& debug) {
  if (debug.db_size() != 4 || !fits<std::uint32_t>(debug.dr6()) || !fits<std::uint32_t>(debug.dr7())) {
    return fail(ErrorCode::BadRequest,
                "the debug registers are {} addresses, DR6 {:#x} and DR7 {:#x}: four, and 32 bits each",
                debug.db_size(), debug.dr6(), debug.dr7());
  }
  return {};
}

Status check_events(const state::VcpuEvents& events) {
  const std::uint32_t exception = events.exception_vector();
  const bool raised = events.exception_injected() || events.exception_pending();
  if (!fits<std::uint8_t>(exception) || (raised && (exception > kLastException || exception == kNmiVector))) {
    return fail(ErrorCode::BadRequest, "{} is no exception's vector", exception);
  }
  if (!fits<std::uint8_t>(events.interrupt_vector())) {
    return fail(ErrorCode::BadRequest, "{} is no interrupt's vector", events.interrupt_vector());
  }
  if (!fits<std::uint8_t>(events.interrupt_shadow())) {
    return fail(ErrorCode::BadRequest, "the interrupt shadow cannot be {:#x}", events.interrupt_shadow());
  }
  if ((events.flags() & ~kKnownEvents) != 0) {
    return fail(ErrorCode::BadRequest, "event flags {:#x} are unknown", events.flags() & ~kKnownEvents);
  }
  return {};
}

}  // namespace

Status check_vcpu(const state::Vcpu& state, std::size_t xsave_size) {
  VMMD_TRY(check_sizes(state, xsave_size));
  VMMD_TRY(check_xsave(state.xsave()));
  VMMD_TRY(check_special(state.sregs()));
  VMMD_TRY(check_debug(state.debug()));
  return check_events(state.events());
}

}  // namespace vmmd::kvm
