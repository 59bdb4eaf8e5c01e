#include "daemon/kvm/register_messages.h"

#include <algorithm>
#include <bit>
#include <cstdint>

namespace vmmd::kvm {

namespace {

void to_message(const kvm_segment& segment, state::Segment& message) {
  message.set_base(segment.base);
  message.set_limit(segment.limit);
  message.set_selector(segment.selector);
  const auto bit = [](unsigned value, unsigned shift) { return (value & 1U) << shift; };
  message.set_access_rights((segment.type & 0xFU) | bit(segment.s, 4) | ((segment.dpl & 3U) << 5) |
                            bit(segment.present, 7) | bit(segment.avl, 12) | bit(segment.l, 13) |
                            bit(segment.db, 14) | bit(segment.g, 15) | bit(segment.unusable, 16));
}

kvm_segment from_message(const state::Segment& message) {
  const std::uint32_t rights = message.access_rights();
  const auto bit = [rights](unsigned shift) { return static_cast<std::uint8_t>((rights >> shift) & 1U); };
  kvm_segment segment = {};
  segment.base = message.base();
  segment.limit = message.limit();
  segment.selector = static_cast<std::uint16_t>(message.selector());
  segment.type = static_cast<std::uint8_t>(rights & 0xFU);
  segment.s = bit(4);
  segment.dpl = static_cast<std::uint8_t>((rights >> 5) & 3U);
  segment.present = bit(7);
  segment.avl = bit(12);
  segment.l = bit(13);
  segment.db = bit(14);
  segment.g = bit(15);
  segment.unusable = bit(16);
  return segment;
}

void to_message(const kvm_dtable& table, state::DescriptorTable& message) {
  message.set_base(table.base);
  message.set_limit(table.limit);
}

kvm_dtable from_message(const state::DescriptorTable& message) {
  kvm_dtable table = {};
  table.base = message.base();
  table.limit = static_cast<std::uint16_t>(message.limit());
  return table;
}

}  // namespace

void to_message(const kvm_regs& regs, state::GeneralRegisters& message) {
  message.set_rax(regs.rax);
  message.set_rbx(regs.rbx);
  message.set_rcx(regs.rcx);
  message.set_rdx(regs.rdx);
  message.set_rsi(regs.rsi);
  message.set_rdi(regs.rdi);
  message.set_rsp(regs.rsp);
  message.set_rbp(regs.rbp);
  message.set_r8(regs.r8);
  message.set_r9(regs.r9);
  message.set_r10(regs.r10);
  message.set_r11(regs.r11);
  message.set_r12(regs.r12);
  message.set_r13(regs.r13);
  message.set_r14(regs.r14);
  message.set_r15(regs.r15);
  message.set_rip(regs.rip);
  message.set_rflags(regs.rflags);
}

kvm_regs from_message(const state::GeneralRegisters& message) {
  return kvm_regs{
      .rax = message.rax(),
      .rbx = message.rbx(),
      .rcx = message.rcx(),
      .rdx = message.rdx(),
      .rsi = message.rsi(),
      .rdi = message.rdi(),
      .rsp = message.rsp(),
      .rbp = message.rbp(),
      .r8 = message.r8(),
      .r9 = message.r9(),
      .r10 = message.r10(),
      .r11 = message.r11(),
      .r12 = message.r12(),
      .r13 = message.r13(),
      .r14 = message.r14(),
      .r15 = message.r15(),
      .rip = message.rip(),
      .rflags = message.rflags(),
  };
}

void to_message(const kvm_sregs& sregs, state::SpecialRegisters& message) {
  to_message(sregs.cs, *message.mutable_cs());
  to_message(sregs.ds, *message.mutable_ds());
  to_message(sregs.es, *message.mutable_es());
  to_message(sregs.fs, *message.mutable_fs());
  to_message(sregs.gs, *message.mutable_gs());
  to_message(sregs.ss, *message.mutable_ss());
  to_message(sregs.tr, *message.mutable_tr());
  to_message(sregs.ldt, *message.mutable_ldt());
  to_message(sregs.gdt, *message.mutable_gdt());
  to_message(sregs.idt, *message.mutable_idt());
  message.set_cr0(sregs.cr0);
  message.set_cr2(sregs.cr2);
  message.set_cr3(sregs.cr3);
  message.set_cr4(sregs.cr4);
  message.set_cr8(sregs.cr8);
  message.set_efer(sregs.efer);
  message.set_apic_base(sregs.apic_base);
  for (unsigned word = 0; word < std::size(sregs.interrupt_bitmap); ++word) {
    const std::uint64_t bits = sregs.interrupt_bitmap[word];
    // At most one vector is ever set (KVM API, KVM_GET_SREGS).
    if (bits != 0)
      message.set_pending_interrupt(word * 64 + static_cast<unsigned>(std::countr_zero(bits)) + 1);
  }
}

kvm_sregs from_message(const state::SpecialRegisters& message) {
  kvm_sregs sregs = {};
  sregs.cs = from_message(message.cs());
  sregs.ds = from_message(message.ds());
  sregs.es = from_message(message.es());
  sregs.fs = from_message(message.fs());
  sregs.gs = from_message(message.gs());
  sregs.ss = from_message(message.ss());
  sregs.tr = from_message(message.tr());
  sregs.ldt = from_message(message.ldt());
  sregs.gdt = from_message(message.gdt());
  sregs.idt = from_message(message.idt());
  sregs.cr0 = message.cr0();
  sregs.cr2 = message.cr2();
  sregs.cr3 = message.cr3();
  sregs.cr4 = message.cr4();
  sregs.cr8 = message.cr8();
  sregs.efer = message.efer();
  sregs.apic_base = message.apic_base();
  if (const std::uint32_t pending = message.pending_interrupt(); pending >= 1 && pending <= 256) {
    sregs.interrupt_bitmap[(pending - 1) / 64] = std::uint64_t{1} << ((pending - 1) % 64);
  }
  return sregs;
}

void to_message(const kvm_debugregs& regs, state::DebugRegisters& message) {
  for (const std::uint64_t db : regs.db) message.add_db(db);
  message.set_dr6(regs.dr6);
  message.set_dr7(regs.dr7);
}

kvm_debugregs from_message(const state::DebugRegisters& message) {
  kvm_debugregs regs = {};
  const int count = std::min(message.db_size(), static_cast<int>(std::size(regs.db)));
  for (int i = 0; i < count; ++i) regs.db[i] = message.db(i);
  regs.dr6 = message.dr6();
  regs.dr7 = message.dr7();
  return regs;
}

void to_message(const kvm_vcpu_events& events, state::VcpuEvents& message) {
  message.set_exception_injected(events.exception.injected != 0);
  message.set_exception_vector(events.exception.nr);
  message.set_exception_has_error_code(events.exception.has_error_code != 0);
  message.set_exception_error_code(events.exception.error_code);
  message.set_exception_pending(events.exception.pending != 0);
  message.set_exception_has_payload(events.exception_has_payload != 0);
  message.set_exception_payload(events.exception_payload);
  message.set_interrupt_injected(events.interrupt.injected != 0);
  message.set_interrupt_vector(events.interrupt.nr);
  message.set_interrupt_soft(events.interrupt.soft != 0);
  message.set_interrupt_shadow(events.interrupt.shadow);
  message.set_nmi_injected(events.nmi.injected != 0);
  message.set_nmi_pending(events.nmi.pending != 0);
  message.set_nmi_masked(events.nmi.masked != 0);
  message.set_sipi_vector(events.sipi_vector);
  message.set_smm(events.smi.smm != 0);
  message.set_smm_pending(events.smi.pending != 0);
  message.set_smm_inside_nmi(events.smi.smm_inside_nmi != 0);
  message.set_smm_latched_init(events.smi.latched_init != 0);
  message.set_triple_fault_pending(events.triple_fault.pending != 0);
  message.set_flags(events.flags);
}

kvm_vcpu_events from_message(const state::VcpuEvents& message) {
  kvm_vcpu_events events = {};
  events.exception.injected = message.exception_injected();
  events.exception.nr = static_cast<std::uint8_t>(message.exception_vector());
  events.exception.has_error_code = message.exception_has_error_code();
  events.exception.error_code = message.exception_error_code();
  events.exception.pending = message.exception_pending();
  events.exception_has_payload = message.exception_has_payload();
  events.exception_payload = message.exception_payload();
  events.interrupt.injected = message.interrupt_injected();
  events.interrupt.nr = static_cast<std::uint8_t>(message.interrupt_vector());
  events.interrupt.soft = message.interrupt_soft();
  events.interrupt.shadow = static_cast<std::uint8_t>(message.interrupt_shadow());
  events.nmi.injected = message.nmi_injected();
  events.nmi.pending = message.nmi_pending();
  events.nmi.masked = message.nmi_masked();
  events.sipi_vector = message.sipi_vector();
  events.smi.smm = message.smm();
  events.smi.pending = message.smm_pending();
  events.smi.smm_inside_nmi = message.smm_inside_nmi();
  events.smi.latched_init = message.smm_latched_init();
  events.triple_fault.pending = message.triple_fault_pending();
  events.flags = message.flags();
  return events;
}

}  // namespace vmmd::kvm
