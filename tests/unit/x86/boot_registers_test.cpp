#include <doctest/doctest.h>

#include "daemon/x86/boot_layout.h"
#include "tests/unit/x86/kernel_images.h"

using namespace vmmd;
using namespace vmmd::x86;
using namespace vmmd::x86::testing;
using devices::GuestAddress;

namespace {

constexpr LoadedKernel kPvh{BootProtocol::Pvh, GuestAddress(0x12'3456), GuestAddress(0x6000)};
constexpr LoadedKernel kLinux64{BootProtocol::Linux64, GuestAddress(0x100'0200), GuestAddress(0x7000)};
constexpr LoadedKernel kLinux32{BootProtocol::Linux32, GuestAddress(0x10'0000), GuestAddress(0x7000)};

struct Registers {
  kvm_regs regs = {};
  kvm_sregs sregs = {};
};

/// As a processor after reset might have them, all wrong for a kernel.
Registers set(const LoadedKernel& kernel, const TestMemory& memory) {
  Registers r;
  r.regs.rax = r.regs.rbx = r.regs.rsi = r.regs.rbp = r.regs.rdi = 0xDEAD;
  r.sregs.cr0 = 0x6000'0010;
  r.sregs.cr3 = 0x1000;
  r.sregs.cr4 = 0x20;
  r.sregs.efer = 0x500;
  r.sregs.apic_base = 0xFEE0'0900;
  REQUIRE(set_boot_registers(kernel, memory.guest, r.regs, r.sregs));
  return r;
}

/// Follows the page tables that CR3 points to, as the processor would.
std::uint64_t translate(const TestMemory& memory, std::uint64_t cr3, std::uint64_t address) {
  std::uint64_t table = cr3;
  for (const unsigned shift : {39U, 30U, 21U}) {
    const auto entry = memory.at<std::uint64_t>(table + ((address >> shift) & 511) * 8);
    CHECK((entry & 3) == 3);
    if ((entry & 0x80) != 0) {
      const std::uint64_t mask = (std::uint64_t{1} << shift) - 1;
      return (entry & 0xF'FFFF'FFFF'F000 & ~mask) | (address & mask);
    }
    table = entry & 0xF'FFFF'FFFF'F000;
  }
  FAIL("no page is mapped there");
  return 0;
}

}  // namespace

TEST_CASE("PVH starts in flat 32-bit protected mode with EBX at the start info") {
  const TestMemory memory(2 * kMiB);
  const Registers r = set(kPvh, memory);
  CHECK(r.regs.rip == 0x12'3456);
  CHECK(r.regs.rbx == 0x6000);
  CHECK(r.regs.rsi == 0);
  CHECK(r.regs.rax == 0);
  CHECK(r.regs.rflags == 2);
  CHECK(r.sregs.cr0 == 0x11);
  CHECK(r.sregs.cr3 == 0);
  CHECK(r.sregs.cr4 == 0);
  CHECK(r.sregs.efer == 0);
  CHECK(r.sregs.cs.base == 0);
  CHECK(r.sregs.cs.limit == 0xFFFF'FFFF);
  CHECK(r.sregs.cs.type == 0xB);
  CHECK(r.sregs.cs.db == 1);
  CHECK(r.sregs.cs.l == 0);
  for (const kvm_segment* data : {&r.sregs.ds, &r.sregs.es, &r.sregs.ss}) {
    CHECK(data->base == 0);
    CHECK(data->limit == 0xFFFF'FFFF);
    CHECK(data->type == 3);
    CHECK(data->db == 1);
    CHECK(data->present == 1);
    CHECK(data->s == 1);
  }
  CHECK(r.sregs.tr.base == 0);
  CHECK(r.sregs.tr.limit == 0x67);
  CHECK(r.sregs.tr.type == 0xB);
  CHECK(r.sregs.tr.s == 0);
}

TEST_CASE("what no protocol speaks of is left alone") {
  const TestMemory memory(2 * kMiB);
  CHECK(set(kPvh, memory).sregs.apic_base == 0xFEE0'0900);
}

TEST_CASE("the 64-bit protocol starts in long mode with RSI at the zero page") {
  const TestMemory memory(2 * kMiB);
  const Registers r = set(kLinux64, memory);
  CHECK(r.regs.rip == 0x100'0200);
  CHECK(r.regs.rsi == 0x7000);
  CHECK(r.regs.rbx == 0);
  CHECK(r.regs.rflags == 2);
  CHECK(r.sregs.cr0 == 0x8000'0011);
  CHECK(r.sregs.cr4 == 0x20);
  CHECK(r.sregs.efer == 0x500);
  CHECK(r.sregs.cs.selector == 0x10);
  CHECK(r.sregs.cs.l == 1);
  CHECK(r.sregs.cs.db == 0);
  CHECK(r.sregs.ds.selector == 0x18);
  CHECK(r.sregs.es.selector == 0x18);
  CHECK(r.sregs.ss.selector == 0x18);
}

TEST_CASE("the page tables map the first 4 GiB to themselves") {
  const TestMemory memory(2 * kMiB);
  const Registers r = set(kLinux64, memory);
  for (const std::uint64_t address : {0x0ULL, 0x7123ULL, 0x100'0200ULL, 0x3FFF'FFFFULL, 0x4000'0000ULL,
                                      0x9876'5432ULL, 0xFEE0'0000ULL, 0xFFFF'FFFFULL}) {
    CAPTURE(address);
    CHECK(translate(memory, r.sregs.cr3, address) == address);
  }
  // Stale memory beyond the four entries would map anything.
  CHECK(memory.at<std::uint64_t>(kPageTablesStart + 8) == 0);
  CHECK(memory.at<std::uint64_t>(kPageTablesStart + 4096 + 4 * 8) == 0);
  CHECK(memory.at<std::uint8_t>(kPageTablesStart + kPageTablesSize) == 0x5A);
}

TEST_CASE("the 32-bit protocol starts unpaged with ESI at the zero page") {
  const TestMemory memory(2 * kMiB);
  const Registers r = set(kLinux32, memory);
  CHECK(r.regs.rip == 0x10'0000);
  CHECK(r.regs.rsi == 0x7000);
  CHECK(r.regs.rbx == 0);
  CHECK(r.regs.rbp == 0);
  CHECK(r.regs.rdi == 0);
  CHECK(r.sregs.cr0 == 0x11);
  CHECK(r.sregs.efer == 0);
  CHECK(r.sregs.cs.selector == 0x10);
  CHECK(r.sregs.cs.db == 1);
  CHECK(r.sregs.ds.selector == 0x18);
}

TEST_CASE("the GDT holds what the segment registers say") {
  const TestMemory memory(2 * kMiB);
  const Registers r = set(kLinux64, memory);
  CHECK(r.sregs.gdt.base == kGdtStart);
  CHECK(r.sregs.gdt.limit == 47);
  CHECK(memory.at<std::uint64_t>(kGdtStart) == 0);
  CHECK(memory.at<std::uint64_t>(kGdtStart + 0x10) == 0x00AF'9B00'0000'FFFF);
  CHECK(memory.at<std::uint64_t>(kGdtStart + 0x18) == 0x00CF'9300'0000'FFFF);
  CHECK(memory.at<std::uint64_t>(kGdtStart + 0x28) == 0);
  set(kPvh, memory);
  CHECK(memory.at<std::uint64_t>(kGdtStart + 0x10) == 0x00CF'9B00'0000'FFFF);
}

TEST_CASE("memory without room for the page tables is an error") {
  const TestMemory memory(0x9000);
  kvm_regs regs = {};
  kvm_sregs sregs = {};
  CHECK_FALSE(set_boot_registers(kLinux64, memory.guest, regs, sregs));
  CHECK(set_boot_registers(kPvh, memory.guest, regs, sregs));
}
