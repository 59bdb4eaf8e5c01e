#include "daemon/x86/msr.h"

#include <algorithm>
#include <array>

namespace vmmd::x86 {
namespace {

// KVM's own MSRs (Linux Documentation/virt/kvm/x86/msr.rst).
constexpr std::uint32_t kKvmWallClockOld = 0x11;
constexpr std::uint32_t kKvmSystemTimeOld = 0x12;
constexpr std::uint32_t kKvmWallClock = 0x4B56'4D00;
constexpr std::uint32_t kKvmSystemTime = 0x4B56'4D01;
constexpr std::uint32_t kKvmAsyncPfEnable = 0x4B56'4D02;
constexpr std::uint32_t kKvmStealTime = 0x4B56'4D03;
constexpr std::uint32_t kKvmPvEoi = 0x4B56'4D04;
constexpr std::uint32_t kKvmPollControl = 0x4B56'4D05;
constexpr std::uint32_t kKvmAsyncPfInterrupt = 0x4B56'4D06;
constexpr std::uint32_t kKvmAsyncPfAck = 0x4B56'4D07;
constexpr std::uint32_t kKvmMigrationControl = 0x4B56'4D08;

constexpr std::uint32_t kMtrrFix64K = 0x250;
constexpr std::uint32_t kMtrrFix16KFirst = 0x258;
constexpr std::uint32_t kMtrrFix4KFirst = 0x268;
constexpr std::uint32_t kMtrrVariableFirst = 0x200;
constexpr std::uint32_t kMachineCheckFirst = 0x400;

struct Range {
  std::uint32_t first;
  std::uint32_t last;  // inclusive
  [[nodiscard]] constexpr bool contains(std::uint32_t index) const { return index >= first && index <= last; }
};

template <std::size_t N>
constexpr bool any_contains(const std::array<Range, N>& ranges, std::uint32_t index) {
  return std::ranges::any_of(ranges, [&](const Range& range) { return range.contains(index); });
}

/// Not saved although KVM lists them.
constexpr std::array kNotSaved{
    // The old numbers of system time and wall clock: the same state, saved under the new ones.
    Range{kKvmWallClockOld, kKvmSystemTimeOld},
    // Carried by KVM_GET_SREGS: APIC base, EFER, FS and GS base. Set here they would undo its order.
    Range{0x1B, 0x1B},
    Range{0xC000'0080, 0xC000'0080},
    Range{0xC000'0100, 0xC000'0101},
    // x2APIC registers: KVM_GET_LAPIC.
    Range{0x800, 0x8FF},
    // Performance counters, which cpuid.cpp hides: always zero, KVM refuses other values, and they are most
    // of its list. Counters, event selectors, offcore responses, fixed counters and their controls,
    // PERF_CAPABILITIES, PEBS, full-width aliases, DS area; AMD's, and the architectural ranges of 2024.
    Range{0xC1, 0xC8},
    Range{0x186, 0x18D},
    Range{0x1A6, 0x1A7},
    Range{0x309, 0x310},
    Range{kMsrPerfCapabilities, kMsrPerfCapabilities},
    Range{0x38D, 0x391},
    Range{0x3F1, 0x3F2},
    Range{0x4C1, 0x4C8},
    Range{0x600, 0x600},
    Range{0xC001'0200, 0xC001'020B},
    Range{0xC000'0300, 0xC000'0303},
    Range{0x1900, 0x19FF},
    // Last branch records of Intel's architectural kind, hidden likewise.
    Range{0x14CE, 0x14CF},
    // Processor Trace, hidden.
    Range{0x560, 0x571},
    Range{0x580, 0x587},
    // Commands, written for their effect: prediction barrier, L1D flush.
    Range{0x49, 0x49},
    Range{0x10B, 0x10B},
    // Hyper-V's synthetic MSRs: we do not offer that interface, and setting one makes KVM allocate its state.
    Range{0x4000'0000, 0x4000'01FF},
    // Asynchronous page fault acknowledge: reads as 0, and a write of 0 does nothing. Migration control:
    // offered to encrypted guests only.
    Range{kKvmAsyncPfAck, kKvmMigrationControl},
};

/// Set behind all others, in this order.
constexpr std::array kLast{
    // If a KVM lets TSC_ADJUST move the TSC, then the TSC's own value decides after it.
    kMsrTscAdjust,
    kMsrTsc,
    // KVM turns the deadline into a host timer with the TSC offset that it has at that moment: before the TSC
    // is set the timer would fire at once, or years later (Firecracker #4666).
    kMsrTscDeadline,
    // KVM's own MSRs make it write guest memory: after whatever a vCPU needs to be consistent. Missing
    // ones meant guests waiting for ever for an asynchronous page fault (Firecracker #5738), and
    // KVM_GET_MSR_INDEX_LIST leaves some out, depending on the version.
    kKvmPollControl,
    kKvmWallClock,
    kKvmSystemTime,
    kKvmStealTime,
    kKvmPvEoi,
    // The vector first: enabling wakes all waiters in the guest by an interrupt with that vector.
    kKvmAsyncPfInterrupt,
    kKvmAsyncPfEnable,
};

/// Facts about the host's CPU rather than state of the guest's, or state that a guest can lose: machine check
/// controls, last branches, AMD's basic performance counters.
constexpr std::array kOptional{
    Range{0x17, 0x17},                                  // PLATFORM_ID
    Range{0x8B, 0x8B},                                  // microcode revision
    Range{0xCE, 0xCE},                                  // PLATFORM_INFO
    Range{kMsrArchCapabilities, kMsrArchCapabilities},  // readable yet not settable on some AMD hosts
    Range{0x122, 0x122},                                // TSX_CTRL: exists where ARCH_CAPABILITIES says so
    Range{0x17A, 0x17B},                                // MCG_STATUS, MCG_CTL
    Range{0x1D9, 0x1DE},                                // DEBUGCTL and last branches
    Range{kMachineCheckFirst, kMachineCheckFirst + 4 * 32 - 1},
    Range{0x480, 0x491},              // VMX capabilities
    Range{0x4D0, 0x4D0},              // MCG_EXT_CTL
    Range{0xC001'0000, 0xC001'0007},  // K7 counters
    Range{0xC001'0015, 0xC001'0015},  // HWCR
    Range{0xC001'0117, 0xC001'0117},  // VM_HSAVE_PA
    Range{0xC001'011F, 0xC001'011F},  // VIRT_SPEC_CTRL
    Range{0xC001'0140, 0xC001'0141},  // OSVW
    Range{0xC001'1029, 0xC001'1029},  // DE_CFG
    Range{0xC000'0104, 0xC000'0104},  // TSC_RATIO
};

/// The memory types, which KVM_GET_MSR_INDEX_LIST has never named: eight variable pairs, the fixed ranges,
/// and the default type behind them, whose enable bit makes them count.
void append_mtrrs(std::vector<std::uint32_t>& out) {
  constexpr unsigned kVariablePairs = 8;
  for (std::uint32_t i = 0; i < 2 * kVariablePairs; ++i) out.push_back(kMtrrVariableFirst + i);
  out.push_back(kMtrrFix64K);
  for (std::uint32_t i = 0; i < 2; ++i) out.push_back(kMtrrFix16KFirst + i);
  for (std::uint32_t i = 0; i < 8; ++i) out.push_back(kMtrrFix4KFirst + i);
  out.push_back(kMsrMtrrDefType);
}

}  // namespace

std::vector<kvm_msr_entry> boot_msrs() {
  // Everything else that firmware would set is zero (SYSENTER, SYSCALL) or right (PAT) after KVM's reset.
  constexpr std::uint64_t kFastStrings = 1U << 0;     // Linux drops ERMS from the CPU's features without it
  constexpr std::uint64_t kNoBranchTrace = 1U << 11;  // KVM's reset values, which a write would clear
  constexpr std::uint64_t kNoPebs = 1U << 12;
  constexpr std::uint64_t kMtrrEnable = 1U << 11;  // with write-back as the default: RAM is cached, and
  constexpr std::uint64_t kWriteBack = 6;          // uncached devices are the page tables' affair
  return {{.index = kMsrMiscEnable, .reserved = 0, .data = kFastStrings | kNoBranchTrace | kNoPebs},
          {.index = kMsrMtrrDefType, .reserved = 0, .data = kMtrrEnable | kWriteBack}};
}

std::vector<std::uint32_t> saved_msr_indices(std::span<const std::uint32_t> kvm_list) {
  std::vector<std::uint32_t> mtrrs;
  append_mtrrs(mtrrs);
  const auto is_in = [](const auto& list, std::uint32_t index) {
    return std::ranges::find(list, index) != list.end();
  };
  std::vector<std::uint32_t> out;
  out.reserve(kvm_list.size() + mtrrs.size() + kLast.size());
  for (const std::uint32_t index : kvm_list) {
    if (any_contains(kNotSaved, index) || is_in(kLast, index) || is_in(mtrrs, index)) continue;
    if (!is_in(out, index)) out.push_back(index);
  }
  // IA32_FEATURE_CONTROL guards the VMX MSRs, whose numbers are higher: ascending order serves.
  std::ranges::sort(out);
  out.insert(out.end(), mtrrs.begin(), mtrrs.end());
  // The timers exist on every KVM that lists them; KVM's own are added unasked.
  for (const std::uint32_t index : kLast) {
    const bool of_kvm = index >= kKvmWallClock && index <= kKvmMigrationControl;
    if (of_kvm || is_in(kvm_list, index)) out.push_back(index);
  }
  return out;
}

bool is_optional_msr(std::uint32_t index) {
  return any_contains(kOptional, index);
}

void fix_saved_msrs(std::span<kvm_msr_entry> msrs) {
  const auto find = [&](std::uint32_t index) {
    return std::ranges::find_if(msrs, [&](const kvm_msr_entry& msr) { return msr.index == index; });
  };
  const auto deadline = find(kMsrTscDeadline);
  const auto tsc = find(kMsrTsc);
  if (deadline != msrs.end() && tsc != msrs.end() && deadline->data == 0) deadline->data = tsc->data;
}

}  // namespace vmmd::x86
