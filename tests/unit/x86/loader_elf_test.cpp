#include <fcntl.h>

#include <algorithm>

#include <doctest/doctest.h>

#include "daemon/x86/boot_layout.h"
#include "tests/unit/x86/kernel_images.h"

using namespace vmmd;
using namespace vmmd::x86;
using namespace vmmd::x86::testing;

namespace {

// hvm_start_info, version 1: field offsets of xen/include/public/arch-x86/hvm/start_info.h.
constexpr std::uint64_t kMagic = kStartInfoStart;
constexpr std::uint64_t kModuleCount = kStartInfoStart + 12;
constexpr std::uint64_t kModuleList = kStartInfoStart + 16;
constexpr std::uint64_t kCmdline = kStartInfoStart + 24;
constexpr std::uint64_t kRsdp = kStartInfoStart + 32;
constexpr std::uint64_t kMap = kStartInfoStart + 40;
constexpr std::uint64_t kMapEntries = kStartInfoStart + 48;

std::string refusal(const ElfBuilder& elf, std::uint64_t ram = 4 * kMiB) {
  const TestMemory memory(ram);
  const auto loaded = load(memory, elf.bytes());
  if (!loaded) CHECK(loaded.error().code == ErrorCode::BadRequest);
  return error_of(loaded);
}

}  // namespace

TEST_CASE("a PVH kernel's segments go to their physical addresses, zeroes behind them") {
  const TestMemory memory(4 * kMiB);
  const auto loaded = load(memory, small_elf().bytes());
  REQUIRE_MESSAGE(loaded, error_of(loaded));
  CHECK(loaded->protocol == BootProtocol::Pvh);
  CHECK(loaded->entry.value == kMiB + 1);
  CHECK(loaded->boot_info.value == kStartInfoStart);
  CHECK(memory.bytes(kMiB, 8) == "KERNCODE");
  CHECK(memory.bytes(kMiB + 8, 101) == std::string(100, '\0') + "\x5A");
}

TEST_CASE("the entry note may have four bytes, and eight-byte alignment") {
  const std::uint32_t entry = kMiB + 1;
  const std::string_view value(reinterpret_cast<const char*>(&entry), sizeof entry);
  ElfBuilder four;
  four.load(kMiB, "KERNCODE").notes(note("Xen", 18, value)).arrange();
  CHECK(refusal(four).empty());

  // A GNU property note as linkers write it, then ours: header 12, owner 4, value 4, 4 of padding.
  ElfBuilder aligned;
  const std::string property = note("GNU", 5, "property");
  REQUIRE(property.size() % 8 == 0);
  aligned.load(kMiB, "KERNCODE").notes(property + note("Xen", 18, value), 8).arrange();
  CHECK(refusal(aligned).empty());
}

TEST_CASE("start info carries command line, RSDP and the memory map") {
  const TestMemory memory(4 * kMiB);
  REQUIRE(load(memory, small_elf().bytes(), "console=ttyS0 panic=-1", {}, 0xE'0040));
  CHECK(memory.at<std::uint32_t>(kMagic) == 0x336E'C578);
  CHECK(memory.at<std::uint32_t>(kMagic + 4) == 1);
  CHECK(memory.at<std::uint32_t>(kModuleCount) == 0);
  CHECK(memory.at<std::uint64_t>(kModuleList) == 0);
  CHECK(memory.at<std::uint64_t>(kRsdp) == 0xE'0040);
  const auto cmdline = memory.at<std::uint64_t>(kCmdline);
  CHECK(memory.bytes(cmdline, 23) == std::string("console=ttyS0 panic=-1\0", 23));

  const auto map = memory.at<std::uint64_t>(kMap);
  REQUIRE(memory.at<std::uint32_t>(kMapEntries) == 5);
  CHECK(memory.at<std::uint64_t>(map) == 0);
  CHECK(memory.at<std::uint64_t>(map + 8) == 0x9'FC00);
  CHECK(memory.at<std::uint64_t>(map + 16) == 1);  // RAM, and the reserved word is zero
  CHECK(memory.at<std::uint64_t>(map + 24) == 0x9'FC00);
  CHECK(memory.at<std::uint64_t>(map + 24 + 16) == 2);
  CHECK(memory.at<std::uint64_t>(map + 48) == kMiB);
  CHECK(memory.at<std::uint64_t>(map + 48 + 8) == 3 * kMiB);
}

TEST_CASE("the initramfs is the first module, at the end of RAM") {
  const TestMemory memory(4 * kMiB);
  REQUIRE(load(memory, small_elf().bytes(), "", "INITRAMFS"));
  REQUIRE(memory.at<std::uint32_t>(kModuleCount) == 1);
  const auto list = memory.at<std::uint64_t>(kModuleList);
  const auto start = memory.at<std::uint64_t>(list);
  CHECK(start == 4 * kMiB - 4096);
  CHECK(memory.at<std::uint64_t>(list + 8) == 9);
  CHECK(memory.at<std::uint64_t>(list + 16) == 0);
  CHECK(memory.bytes(start, 9) == "INITRAMFS");
}

TEST_CASE("the initramfs avoids a kernel at the end of RAM") {
  ElfBuilder elf;
  elf.load(3 * kMiB, "KERNCODE", kMiB - 8).notes(pvh_note(3 * kMiB)).arrange();
  const TestMemory memory(4 * kMiB);
  REQUIRE(load(memory, elf.bytes(), "", "INITRAMFS"));
  CHECK(memory.at<std::uint64_t>(memory.at<std::uint64_t>(kModuleList)) == 3 * kMiB - 4096);
}

TEST_CASE("an initramfs beyond the memory is refused with the memory it would take") {
  const TestMemory memory(4 * kMiB);
  const std::string big(3 * kMiB, 'i');
  const std::string error = error_of(load(memory, small_elf().bytes(), "", big));
  CHECK(says(error, "initramfs /k/initrd has 3 MiB"));
  CHECK(says(error, "at least 5 MiB"));
  const TestMemory enough(5 * kMiB);
  CHECK(load(enough, small_elf().bytes(), "", big));
}

TEST_CASE("everything that the loader writes is marked dirty") {
  struct Sink : devices::DirtySink {
    std::vector<std::pair<std::uint64_t, std::uint64_t>> marks;
    void mark_dirty(devices::GuestAddress address, std::uint64_t length) override {
      marks.emplace_back(address.value, address.value + length);
    }
    [[nodiscard]] bool has(std::uint64_t start, std::uint64_t end) const {
      for (std::uint64_t at = start; at < end; ++at) {
        if (std::none_of(marks.begin(), marks.end(),
                         [&](const auto& mark) { return mark.first <= at && at < mark.second; })) {
          return false;
        }
      }
      return true;
    }
  } sink;
  TestMemory memory(4 * kMiB);
  memory.guest.set_dirty_sink(&sink);
  REQUIRE(load(memory, small_elf().bytes(), "quiet", "INITRAMFS"));
  CHECK(sink.has(kMiB, kMiB + 108));
  CHECK(sink.has(kCmdlineStart, kCmdlineStart + 6));
  CHECK(sink.has(kStartInfoStart, kStartInfoStart + 56 + 32 + 5 * 24));
  CHECK(sink.has(4 * kMiB - 4096, 4 * kMiB - 4096 + 9));
  CHECK_FALSE(sink.has(2 * kMiB, 2 * kMiB + 1));
}

TEST_CASE("program headers may lie at the end of a long file") {
  ElfBuilder elf = small_elf();
  std::string file = elf.bytes();
  file.resize(10000);
  elf.header.e_phoff = file.size();
  std::memcpy(file.data(), &elf.header, sizeof elf.header);
  for (const auto& part : elf.parts) append(file, part.program);
  const TestMemory memory(4 * kMiB);
  CHECK(error_of(load(memory, file)).empty());
  file.pop_back();
  CHECK(says(error_of(load(memory, file)), "truncated: its program headers"));
}

TEST_CASE("an ELF file without the note is refused, and says what to do") {
  ElfBuilder elf;
  elf.load(kMiB, "KERNCODE").notes(note("GNU", 3, "build-id") + note("Xen", 17, "12345678")).arrange();
  const std::string error = refusal(elf);
  CHECK(says(error, "/k/vmlinux is an ELF file without a PVH entry"));
  CHECK(says(error, "CONFIG_PVH=y"));
  CHECK(says(error, "bzImage"));
}

TEST_CASE("ELF files of other machines, widths and kinds are refused") {
  ElfBuilder elf = small_elf();
  elf.header.e_ident[EI_CLASS] = ELFCLASS32;
  CHECK(says(refusal(elf), "32-bit ELF"));
  elf = small_elf();
  elf.header.e_ident[EI_DATA] = ELFDATA2MSB;
  CHECK(says(refusal(elf), "little-endian"));
  elf = small_elf();
  elf.header.e_machine = EM_AARCH64;
  CHECK(says(refusal(elf), "another machine"));
  elf = small_elf();
  elf.header.e_type = ET_REL;
  CHECK(says(refusal(elf), "not an executable"));
}

TEST_CASE("program headers of odd number and size are refused") {
  ElfBuilder elf = small_elf();
  elf.header.e_phentsize = 55;
  CHECK(says(refusal(elf), "program headers"));
  elf = small_elf();
  elf.header.e_phnum = 0;
  CHECK(says(refusal(elf), "program headers"));
  elf = small_elf();
  elf.header.e_phnum = 65;
  CHECK(says(refusal(elf), "65 program headers"));
  for (const std::uint64_t offset : {std::uint64_t{100000}, ~std::uint64_t{0}, ~std::uint64_t{0} - 111}) {
    elf = small_elf();
    elf.header.e_phoff = offset;
    CHECK(says(refusal(elf), "truncated: its program headers"));
  }
}

TEST_CASE("a file that ends within its headers or segments is refused wherever it ends") {
  const std::string file = small_elf().bytes();
  const TestMemory memory(4 * kMiB);
  for (std::size_t size = 1; size < file.size(); ++size) {
    CAPTURE(size);
    CHECK_FALSE(load(memory, std::string_view(file).substr(0, size)));
  }
}

TEST_CASE("segments whose numbers lie are refused") {
  ElfBuilder elf = small_elf();
  elf.parts[0].program.p_memsz = 7;
  CHECK(says(refusal(elf), "segment 0 has 0x8 bytes in the file but 0x7 in memory"));
  elf = small_elf();
  elf.parts[0].program.p_offset = ~std::uint64_t{0} - 3;
  CHECK(says(refusal(elf), "truncated: segment 0"));
  elf = small_elf();
  elf.parts[0].program.p_filesz = elf.parts[0].program.p_memsz = ~std::uint64_t{0};
  CHECK(says(refusal(elf), "truncated: segment 0"));
  elf = small_elf();
  elf.parts[0].program.p_memsz = ~std::uint64_t{0};
  CHECK(says(refusal(elf), "wraps around"));
  elf = small_elf();
  elf.parts[0].program.p_memsz = ~std::uint64_t{0} - kMiB;
  CHECK(says(refusal(elf), "no RAM there"));
}

TEST_CASE("segments must not overlap each other") {
  ElfBuilder elf = small_elf();
  elf.load(kMiB + 107, "more").arrange();
  CHECK(says(refusal(elf), "segments 0 and 2 overlap at 0x10006b"));
  elf.parts[2].program.p_paddr = kMiB + 108;
  CHECK(refusal(elf).empty());
}

TEST_CASE("segments must not lie over boot structures, firmware tables or outside RAM") {
  const auto placed = [](std::uint64_t address) {
    ElfBuilder elf = small_elf();
    elf.load(address, "12345678").arrange();
    return refusal(elf);
  };
  CHECK(says(placed(0), "boot structures"));
  CHECK(says(placed(kZeroPageStart), "boot structures"));
  CHECK(says(placed(kBootAreaEnd - 1), "boot structures"));
  CHECK(placed(kBootAreaEnd).empty());
  CHECK(placed(memory::kEbdaStart - 8).empty());
  CHECK(says(placed(memory::kEbdaStart - 7), "firmware tables"));
  CHECK(says(placed(memory::kAcpiTablesStart), "firmware tables"));
  CHECK(placed(4 * kMiB - 8).empty());
  CHECK(says(placed(4 * kMiB - 7), "memory is 4 MiB: give the VM at least 5 MiB"));
  CHECK(says(placed(memory::kEcamStart), "no RAM there"));
}

TEST_CASE("segments without a byte are passed over") {
  ElfBuilder elf = small_elf();
  elf.load(0, "").arrange();
  CHECK(refusal(elf).empty());
}

TEST_CASE("notes that are longer than their segment, or than sense, are refused") {
  for (const Elf64_Nhdr bad : {Elf64_Nhdr{0xFFFF'FFFF, 0, 18}, Elf64_Nhdr{4, 0xFFFF'FFFF, 18},
                               Elf64_Nhdr{4, 5, 18}, Elf64_Nhdr{0xFFFF'FFFD, 0xFFFF'FFFD, 18}}) {
    std::string notes;
    append(notes, bad);
    notes += std::string("Xen\0entr", 8);
    ElfBuilder elf;
    elf.load(kMiB, "KERNCODE").notes(notes).arrange();
    CHECK(says(refusal(elf), "longer than the segment"));
  }
  ElfBuilder elf;
  elf.load(kMiB, "KERNCODE").notes(note("Xen", 18, "123456")).arrange();
  CHECK(says(refusal(elf), "has 6 bytes, not 4 or 8"));
  elf = small_elf();
  elf.notes(std::string(70000, '\0')).arrange();
  CHECK(says(refusal(elf), "70000 bytes; at most 65536"));
  elf = small_elf();
  elf.parts[1].program.p_offset = 100000;
  CHECK(says(refusal(elf), "truncated: note segment 1"));
}

TEST_CASE("an entry that no loaded byte lies at is refused") {
  for (const std::uint64_t entry :
       {std::uint64_t{0}, kMiB - 1, kMiB + 8, (std::uint64_t{1} << 32) + kMiB, ~std::uint64_t{0}}) {
    ElfBuilder elf;
    elf.load(kMiB, "KERNCODE", 100).notes(pvh_note(entry)).arrange();
    CAPTURE(entry);
    CHECK(says(refusal(elf), "PVH entry"));
  }
}

TEST_CASE("a Linux kernel's command line has Linux' limit, others what the area holds") {
  const TestMemory memory(4 * kMiB);
  ElfBuilder linux = small_elf();
  linux.notes(note("Linux", 0x100, "value")).arrange();
  CHECK(load(memory, linux.bytes(), std::string(2047, 'c')));
  CHECK(says(error_of(load(memory, linux.bytes(), std::string(2048, 'c'))), "2048 bytes"));
  CHECK(load(memory, small_elf().bytes(), std::string(kCmdlineSize - 1, 'c')));
  CHECK(says(error_of(load(memory, small_elf().bytes(), std::string(kCmdlineSize, 'c'))), "at most 65535"));
}

TEST_CASE("a NUL within the command line is refused") {
  const TestMemory memory(4 * kMiB);
  CHECK(says(error_of(load(memory, small_elf().bytes(), std::string("a=1\0b", 5))), "NUL at byte 3"));
}

TEST_CASE("what is no kernel at all is named") {
  const TestMemory memory(4 * kMiB);
  const auto error = [&](std::string_view content) { return error_of(load(memory, content)); };
  CHECK(error("") == "kernel /k/vmlinux is empty");
  CHECK(error("#!/bin/sh\n") == "kernel /k/vmlinux is a script");
  CHECK(says(error("\x1f\x8b\x08"), "gzip"));
  CHECK(says(error("MZ"), "EFI"));
  CHECK(says(error("070701"), "initramfs"));
  CHECK(error("hello") == "kernel /k/vmlinux is neither an ELF file nor a bzImage");
}

TEST_CASE("a directory is neither kernel nor initramfs") {
  const TestMemory memory(4 * kMiB);
  const UniqueFd directory = *open_file("/", O_RDONLY | O_DIRECTORY);
  BootFiles files{directory.get(), "/", -1, "", ""};
  const std::string error = error_of(load_kernel(memory.guest, memory.ram, files, {}));
  CHECK(says(error, "cannot load kernel /"));
  CHECK(says(error, "regular file"));
  const UniqueFd kernel = file_of(small_elf().bytes());
  files = {kernel.get(), "k", directory.get(), "/", ""};
  CHECK(says(error_of(load_kernel(memory.guest, memory.ram, files, {})), "cannot load initramfs /"));
}

TEST_CASE("memory that ends below the kernels is refused") {
  const TestMemory memory(kMiB);
  CHECK(says(error_of(load(memory, small_elf().bytes())), "memory is 1048576 bytes"));
}
