#include "daemon/kvm/register_messages.h"

#include <cstddef>
#include <cstring>
#include <functional>
#include <span>
#include <vector>

#include <doctest/doctest.h>

using namespace vmmd;

namespace {

template <class Message, class Registers>
Registers round_trip(const Registers& registers) {
  Message message;
  kvm::to_message(registers, message);
  // Through bytes, as a snapshot has it.
  Message read;
  REQUIRE(read.ParseFromString(message.SerializeAsString()));
  return kvm::from_message(read);
}

template <class Registers>
bool same_bytes(const Registers& a, const Registers& b) {
  return std::memcmp(&a, &b, sizeof(Registers)) == 0;
}

// Sets each byte of the structure alone, so that a field which is forgotten, cut short or swapped with
// another shows. `unused` says which bytes KVM has no use for.
template <class Message, class Registers>
std::vector<std::size_t> lost_bytes(const std::function<bool(std::size_t)>& unused) {
  std::vector<std::size_t> lost;
  for (std::size_t i = 0; i < sizeof(Registers); ++i) {
    if (unused(i)) continue;
    Registers registers = {};
    std::as_writable_bytes(std::span(&registers, 1))[i] = std::byte{1};
    if (!same_bytes(round_trip<Message>(registers), registers)) lost.push_back(i);
  }
  return lost;
}

using Offsets = std::vector<std::size_t>;

bool within(std::size_t i, std::size_t start, std::size_t size) {
  return i >= start && i < start + size;
}

// Every 8-byte and larger field with bytes that differ, where any value is possible.
template <class Registers>
void fill(Registers& registers) {
  auto bytes = std::as_writable_bytes(std::span(&registers, 1));
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 37 + 11);
}

kvm_segment full_segment(unsigned seed) {
  kvm_segment segment = {};
  segment.base = 0x8877'6655'4433'2200 + seed;
  segment.limit = 0xFEDC'BA00 + seed;
  segment.selector = static_cast<std::uint16_t>(0xF100 + seed);
  segment.type = 0xB;
  segment.dpl = 3;
  segment.present = segment.db = segment.s = segment.l = segment.g = segment.avl = segment.unusable = 1;
  return segment;
}

}  // namespace

TEST_CASE("no byte of the general registers is lost") {
  CHECK(lost_bytes<state::GeneralRegisters, kvm_regs>([](std::size_t) { return false; }) == Offsets{});
}

TEST_CASE("general registers keep large values") {
  kvm_regs regs = {};
  fill(regs);
  CHECK(same_bytes(round_trip<state::GeneralRegisters>(regs), regs));
}

TEST_CASE("no byte of the special registers is lost") {
  const auto unused = [](std::size_t i) {
    constexpr std::size_t kSegments = offsetof(kvm_sregs, gdt);
    constexpr std::size_t kTables = offsetof(kvm_sregs, cr0);
    if (i < kSegments) return i % sizeof(kvm_segment) == offsetof(kvm_segment, padding);
    if (i < kTables) {
      return within((i - kSegments) % sizeof(kvm_dtable), offsetof(kvm_dtable, padding),
                    sizeof(kvm_dtable::padding));
    }
    return false;
  };
  CHECK(lost_bytes<state::SpecialRegisters, kvm_sregs>(unused) == Offsets{});
}

TEST_CASE("special registers keep the largest value of every field") {
  kvm_sregs sregs = {};
  unsigned seed = 1;
  for (kvm_segment* segment :
       {&sregs.cs, &sregs.ds, &sregs.es, &sregs.fs, &sregs.gs, &sregs.ss, &sregs.tr, &sregs.ldt}) {
    *segment = full_segment(seed++);
  }
  sregs.gdt = {0xFFFF'FFFF'8123'4567, 0xFEDC, {}};
  sregs.idt = {0xFFFF'FFFE'7654'3210, 0xCBA9, {}};
  sregs.cr0 = 0x8005'0033;
  sregs.cr2 = 0xFFFF'8880'1234'5678;
  sregs.cr3 = 0x000F'EDCB'A987'6000;
  sregs.cr4 = 0x0037'26F8;
  sregs.cr8 = 0xF;
  sregs.efer = 0xD01;
  sregs.apic_base = 0xFEE0'0D00;
  CHECK(same_bytes(round_trip<state::SpecialRegisters>(sregs), sregs));
}

TEST_CASE("every interrupt that may be pending is kept, and none stays none") {
  for (unsigned vector = 0; vector < 256; ++vector) {
    CAPTURE(vector);
    kvm_sregs sregs = {};
    sregs.interrupt_bitmap[vector / 64] = std::uint64_t{1} << (vector % 64);
    CHECK(same_bytes(round_trip<state::SpecialRegisters>(sregs), sregs));
  }
  CHECK(same_bytes(round_trip<state::SpecialRegisters>(kvm_sregs{}), kvm_sregs{}));
}

TEST_CASE("a pending interrupt beyond the last vector is taken for none") {
  state::SpecialRegisters message;
  message.set_pending_interrupt(257);
  CHECK(same_bytes(kvm::from_message(message), kvm_sregs{}));
}

TEST_CASE("no byte of the debug registers is lost") {
  const auto unused = [](std::size_t i) { return i >= offsetof(kvm_debugregs, flags); };
  CHECK(lost_bytes<state::DebugRegisters, kvm_debugregs>(unused) == Offsets{});
}

TEST_CASE("debug registers beyond DR3 are ignored") {
  state::DebugRegisters message;
  for (std::uint64_t i = 1; i <= 9; ++i) message.add_db(i * 0x0101'0101);
  kvm_debugregs expected = {};
  for (std::uint64_t i = 0; i < 4; ++i) expected.db[i] = (i + 1) * 0x0101'0101;
  CHECK(same_bytes(kvm::from_message(message), expected));
}

TEST_CASE("no byte of the vCPU events is lost") {
  const auto unused = [](std::size_t i) {
    return within(i, offsetof(kvm_vcpu_events, reserved), sizeof(kvm_vcpu_events::reserved)) ||
           i == offsetof(kvm_vcpu_events, nmi.pad);
  };
  CHECK(lost_bytes<state::VcpuEvents, kvm_vcpu_events>(unused) == Offsets{});
}

TEST_CASE("vCPU events keep large numbers") {
  kvm_vcpu_events events = {};
  events.exception.nr = 0xFE;
  events.exception.error_code = 0xFEDC'BA98;
  events.exception_payload = 0xFEDC'BA98'7654'3210;
  events.interrupt.nr = 0xFD;
  events.interrupt.shadow = 3;
  events.sipi_vector = 0xFC;
  events.flags = 0x3F;
  CHECK(same_bytes(round_trip<state::VcpuEvents>(events), events));
}
