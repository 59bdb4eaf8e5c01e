#include <doctest/doctest.h>

#include "daemon/x86/boot_layout.h"
#include "tests/unit/x86/kernel_images.h"

using namespace vmmd;
using namespace vmmd::x86;
using namespace vmmd::x86::testing;

namespace {

std::string refusal(const BzImageBuilder& image, std::uint64_t ram = 8 * kMiB, std::string cmdline = "") {
  const TestMemory memory(ram);
  const auto loaded = load(memory, image.bytes(), std::move(cmdline));
  if (!loaded) CHECK(loaded.error().code == ErrorCode::BadRequest);
  return error_of(loaded);
}

/// Compare its fields as `+page.hdr.field`: the structure is packed, and CHECK takes references.
boot_params zero_page(const TestMemory& memory) {
  return memory.at<boot_params>(kZeroPageStart);
}

}  // namespace

TEST_CASE("a bzImage's protected-mode part goes to its preferred address") {
  const TestMemory memory(8 * kMiB);
  const auto loaded = load(memory, BzImageBuilder().bytes());
  REQUIRE_MESSAGE(loaded, error_of(loaded));
  CHECK(loaded->protocol == BootProtocol::Linux64);
  CHECK(loaded->entry.value == 2 * kMiB + 0x200);
  CHECK(loaded->boot_info.value == kZeroPageStart);
  CHECK(memory.bytes(2 * kMiB, 0x401) == std::string(0x400, 'K') + "\x5A");
}

TEST_CASE("the zero page has the kernel's header and nothing else of its first sectors") {
  BzImageBuilder image;
  image.header.handover_offset = 0x1234'5678;
  const TestMemory memory(8 * kMiB);
  REQUIRE(load(memory, image.bytes(), "console=ttyS0", {}, 0xE'0040));
  const boot_params page = zero_page(memory);
  CHECK(page.sentinel == 0);
  CHECK(+page.hdr.header == 0x5372'6448);
  CHECK(+page.hdr.handover_offset == 0x1234'5678);
  CHECK(+page.hdr.type_of_loader == 0xFF);
  CHECK(+page.hdr.loadflags == LOADED_HIGH);
  CHECK(+page.hdr.code32_start == 2 * kMiB);
  CHECK(+page.hdr.setup_data == 0);
  CHECK(+page.hdr.cmd_line_ptr == kCmdlineStart);
  CHECK(+page.ext_cmd_line_ptr == 0);
  CHECK(+page.hdr.ramdisk_image == 0);
  CHECK(+page.hdr.ramdisk_size == 0);
  CHECK(+page.acpi_rsdp_addr == 0xE'0040);
  CHECK(memory.bytes(kCmdlineStart, 14) == std::string("console=ttyS0\0", 14));
  // Beyond this kernel's header (0x202 + 0x6C) the file's own bytes stay out.
  CHECK(memory.at<std::uint8_t>(kZeroPageStart + 0x26E) == 0);
  CHECK(memory.at<std::uint8_t>(kZeroPageStart + 0x1F0) == 0);
}

TEST_CASE("a newer kernel's longer header is handed over whole") {
  BzImageBuilder image;
  image.header_end = 0x80;
  const TestMemory memory(8 * kMiB);
  REQUIRE(load(memory, image.bytes()));
  CHECK(memory.at<std::uint8_t>(kZeroPageStart + 0x281) == 0xFF);
  CHECK(memory.at<std::uint8_t>(kZeroPageStart + 0x282) == 0);

  image.header_end = 0xFF;  // over edd_mbr_sig_buffer, which is not the header's
  REQUIRE(load(memory, image.bytes()));
  CHECK(memory.at<std::uint8_t>(kZeroPageStart + 0x28F) == 0xFF);
  CHECK(memory.at<std::uint8_t>(kZeroPageStart + 0x290) == 0);
}

TEST_CASE("the zero page has the memory map") {
  const TestMemory memory(8 * kMiB);
  REQUIRE(load(memory, BzImageBuilder().bytes()));
  const boot_params page = zero_page(memory);
  REQUIRE(+page.e820_entries == 5);
  CHECK(+page.e820_table[0].addr == 0);
  CHECK(+page.e820_table[0].size == 0x9'FC00);
  CHECK(+page.e820_table[0].type == 1);
  CHECK(+page.e820_table[1].type == 2);
  CHECK(+page.e820_table[2].addr == kMiB);
  CHECK(+page.e820_table[2].size == 7 * kMiB);
  CHECK(+page.e820_table[2].type == 1);
}

TEST_CASE("kernels before 2.14 are not told the RSDP") {
  BzImageBuilder image;
  image.header.version = 0x020D;
  const TestMemory memory(8 * kMiB);
  REQUIRE(load(memory, image.bytes()));
  CHECK(+zero_page(memory).acpi_rsdp_addr == 0);
}

TEST_CASE("the initramfs lies as high as RAM and initrd_addr_max allow") {
  const TestMemory memory(8 * kMiB);
  BzImageBuilder image;
  REQUIRE(load(memory, image.bytes(), "", "INITRAMFS"));
  CHECK(+zero_page(memory).hdr.ramdisk_image == 8 * kMiB - 4096);
  CHECK(+zero_page(memory).hdr.ramdisk_size == 9);
  CHECK(memory.bytes(8 * kMiB - 4096, 9) == "INITRAMFS");

  image.header.initrd_addr_max = 7 * kMiB - 1;
  REQUIRE(load(memory, image.bytes(), "", "INITRAMFS"));
  CHECK(+zero_page(memory).hdr.ramdisk_image == 7 * kMiB - 4096);
}

TEST_CASE("the initramfs avoids all memory that the kernel unpacks into") {
  const TestMemory memory(8 * kMiB);
  BzImageBuilder image;
  image.header.init_size = 6 * kMiB;
  REQUIRE(load(memory, image.bytes(), "", "INITRAMFS"));
  CHECK(+zero_page(memory).hdr.ramdisk_image == 2 * kMiB - 4096);
}

TEST_CASE("a kernel that can takes its initramfs above initrd_addr_max where there is no room below") {
  const TestMemory memory(8 * kMiB);
  BzImageBuilder image;
  image.header.initrd_addr_max = 2 * kMiB - 1;
  const std::string initramfs(2 * kMiB, 'i');
  REQUIRE(load(memory, image.bytes(), "", initramfs));
  CHECK(+zero_page(memory).hdr.ramdisk_image == 6 * kMiB);

  image.header.xloadflags = XLF_KERNEL_64;
  CHECK(says(error_of(load(memory, image.bytes(), "", initramfs)), "only below 0x200000"));
}

TEST_CASE("an initramfs above 4 GiB is told in the extended fields") {
  // 3 GiB below the hole, untouched but for a few pages.
  const TestMemory memory((std::uint64_t{3} << 30) + 4 * kMiB, std::byte{0});
  BzImageBuilder image;
  image.header.pref_address = 2 * kMiB;
  image.header.init_size = 0xBFE0'0000;  // all of low RAM
  image.header.initrd_addr_max = 0x10'0000;
  REQUIRE(load(memory, image.bytes(), "", std::string(kMiB + 1, 'i')));
  const boot_params page = zero_page(memory);
  CHECK(+page.ext_ramdisk_image == 1);
  CHECK(+page.hdr.ramdisk_image == 4 * kMiB - kMiB - 4096);
  CHECK(+page.hdr.ramdisk_size == kMiB + 1);
  CHECK(+page.ext_ramdisk_size == 0);
}

TEST_CASE("a relocatable kernel's preferred address is rounded up to its alignment") {
  BzImageBuilder image;
  image.header.pref_address = kMiB + 4096;
  const TestMemory memory(8 * kMiB);
  CHECK(load(memory, image.bytes())->entry.value == 2 * kMiB + 0x200);
  image.header.relocatable_kernel = 0;
  CHECK(load(memory, image.bytes())->entry.value == kMiB + 4096 + 0x200);
}

TEST_CASE("32-bit kernels are entered at their first byte") {
  BzImageBuilder image;
  image.header.xloadflags = 0;
  const TestMemory memory(8 * kMiB);
  const auto loaded = load(memory, image.bytes());
  REQUIRE(loaded);
  CHECK(loaded->protocol == BootProtocol::Linux32);
  CHECK(loaded->entry.value == 2 * kMiB);

  // Before 2.12 the field meant nothing.
  image.header.version = 0x020B;
  image.header.xloadflags = XLF_KERNEL_64;
  CHECK(load(memory, image.bytes())->protocol == BootProtocol::Linux32);
}

TEST_CASE("old protocols and zImages are refused with the reason") {
  BzImageBuilder image;
  image.header.version = 0x0209;
  CHECK(says(refusal(image), "boot protocol 2.09; 2.10 and later"));
  image = BzImageBuilder();
  image.header.loadflags = 0;
  CHECK(says(refusal(image), "zImage"));
}

TEST_CASE("a header that ends before init_size is refused") {
  BzImageBuilder image;
  image.header_end = 0x264 - 0x202 - 1;
  CHECK(says(refusal(image), "before init_size"));
  image.header_end = 0x264 - 0x202;
  CHECK(refusal(image).empty());
}

TEST_CASE("a truncated bzImage is refused wherever it ends") {
  const std::string file = BzImageBuilder().bytes();
  const TestMemory memory(8 * kMiB);
  for (std::size_t size = 1; size <= file.size() - 16; size += 3) {
    CAPTURE(size);
    CHECK_FALSE(load(memory, std::string_view(file).substr(0, size)));
  }
}

TEST_CASE("the last paragraph may be short, and a signature behind it is left out") {
  const std::string file = BzImageBuilder().bytes();
  const TestMemory memory(8 * kMiB);
  CHECK(load(memory, std::string_view(file).substr(0, file.size() - 15)));
  const TestMemory other(8 * kMiB);
  REQUIRE(load(other, file + "SIGNATURE"));
  CHECK(other.bytes(2 * kMiB + 0x400, 9) == std::string(9, '\x5A'));
}

TEST_CASE("setup_sects of zero means four") {
  BzImageBuilder image;
  image.header.setup_sects = 4;
  std::string file = image.bytes();
  file[0x1F1] = 0;
  const TestMemory memory(8 * kMiB);
  REQUIRE(load(memory, file));
  CHECK(memory.bytes(2 * kMiB, 4) == "KKKK");
}

TEST_CASE("a header without a kernel behind it is refused") {
  CHECK(says(refusal(BzImageBuilder(std::string(0x200, 'K'))), "512 bytes of kernel"));
  BzImageBuilder image;
  image.header.syssize = 0xFFFF'FFFF;
  CHECK(says(refusal(image), "truncated"));
}

TEST_CASE("a kernel that does not fit in what it says it needs is refused") {
  BzImageBuilder image;
  image.header.init_size = 0x3FF;
  CHECK(says(refusal(image), "1024 bytes do not fit in the 1023"));
}

TEST_CASE("memory must hold what the kernel unpacks") {
  BzImageBuilder image;
  CHECK(refusal(image, 5 * kMiB).empty());
  CHECK(says(refusal(image, 5 * kMiB - 4096), "needs 3 MiB at 0x200000 to start: memory is 4 MiB"));
}

TEST_CASE("preferred addresses over boot structures, in the hole and beyond are refused") {
  BzImageBuilder image;
  image.header.pref_address = 0;
  CHECK(says(refusal(image), "boot structures"));
  image.header.relocatable_kernel = 0;
  image.header.pref_address = 0x9'0000;
  CHECK(says(refusal(image), "firmware tables"));
  image.header.pref_address = memory::kEcamStart;
  CHECK(says(refusal(image), "no RAM there"));
  for (const std::uint64_t address :
       {std::uint64_t{1} << 32, ~std::uint64_t{0}, std::uint64_t{0xFFFF'FFFF}}) {
    for (const std::uint8_t relocatable : {std::uint8_t{0}, std::uint8_t{1}}) {
      image.header.relocatable_kernel = relocatable;
      image.header.pref_address = address;
      CHECK(says(refusal(image), "only below 4 GiB"));
    }
  }
}

TEST_CASE("an alignment that is no power of two is refused, where it matters") {
  BzImageBuilder image;
  image.header.kernel_alignment = 0;
  CHECK(says(refusal(image), "not a power of two"));
  image.header.kernel_alignment = 0x30'0000;
  CHECK(says(refusal(image), "not a power of two"));
  image.header.relocatable_kernel = 0;
  CHECK(refusal(image).empty());
}

TEST_CASE("the command line has the kernel's limit") {
  BzImageBuilder image;
  image.header.cmdline_size = 255;
  CHECK(refusal(image, 8 * kMiB, std::string(255, 'c')).empty());
  CHECK(says(refusal(image, 8 * kMiB, std::string(256, 'c')), "takes at most 255"));
  image.header.cmdline_size = 0xFFFF'FFFF;
  CHECK(says(refusal(image, 8 * kMiB, std::string(kCmdlineSize, 'c')), "takes at most 65535"));
}
