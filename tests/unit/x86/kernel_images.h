#pragma once

#include <elf.h>
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include <asm/bootparam.h>

#include "base/file.h"
#include "base/unique_fd.h"
#include "daemon/memory/layout.h"
#include "daemon/x86/loader.h"
#include "devices/guest_memory.h"

// Kernel images made by hand and guest memory to load them into, for the loaders' tests and fuzz target.
namespace vmmd::x86::testing {

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

/// An anonymous file with `content`.
inline UniqueFd file_of(std::string_view content) {
  UniqueFd fd(::memfd_create("image", MFD_CLOEXEC));
  if (!write_all_at(fd.get(), std::as_bytes(std::span(content)), 0, "image")) std::abort();
  return fd;
}

/// Guest RAM that starts out full of `kStale`, as a kept file may, between pages nobody may touch.
class TestMemory {
 public:
  static constexpr std::byte kStale{0x5A};

  explicit TestMemory(std::uint64_t size, std::byte content = kStale)
      : ram(*memory::ram_layout(size, 46)), mapped_(size + 2 * memory::kPageSize) {
    void* map = ::mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) std::abort();
    base_ = static_cast<std::byte*>(map);
    std::byte* host = base_ + memory::kPageSize;
    if (::mprotect(host, size, PROT_READ | PROT_WRITE) != 0) std::abort();
    std::vector<devices::GuestRegion> regions;
    for (const memory::RamRange& range : ram) {
      regions.push_back({range.start, range.size, host + range.file_offset});
    }
    guest = devices::GuestMemory(std::move(regions));
    if (content != std::byte{0}) std::memset(host, static_cast<int>(content), size);
  }
  ~TestMemory() { ::munmap(base_, mapped_); }
  TestMemory(const TestMemory&) = delete;
  TestMemory& operator=(const TestMemory&) = delete;

  [[nodiscard]] std::string bytes(std::uint64_t address, std::size_t length) const {
    std::string out(length, '\0');
    if (!guest.read(devices::GuestAddress(address), std::as_writable_bytes(std::span(out)))) std::abort();
    return out;
  }
  template <class T>
  [[nodiscard]] T at(std::uint64_t address) const {
    return guest.load<T>(devices::GuestAddress(address)).value();
  }

  std::vector<memory::RamRange> ram;
  devices::GuestMemory guest;

 private:
  std::size_t mapped_;
  std::byte* base_ = nullptr;
};

/// Appends the bytes of `value`.
template <class T>
void append(std::string& to, const T& value) {
  to.append(reinterpret_cast<const char*>(&value), sizeof value);
}

inline std::string note(std::string_view owner, std::uint32_t type, std::string_view value) {
  std::string out;
  append(out,
         Elf64_Nhdr{static_cast<Elf64_Word>(owner.size() + 1), static_cast<Elf64_Word>(value.size()), type});
  out.append(owner).push_back('\0');
  out.resize((out.size() + 3) & ~std::size_t{3});
  out.append(value);
  out.resize((out.size() + 3) & ~std::size_t{3});
  return out;
}

inline std::string pvh_note(std::uint64_t entry) {
  return note("Xen", 18, std::string_view(reinterpret_cast<const char*>(&entry), sizeof entry));
}

/// Headers of an ELF64 file and the parts behind them; whatever a test wants wrong, it sets in `program` or
/// `header`.
struct ElfBuilder {
  struct Part {
    Elf64_Phdr program = {};
    std::string content;
  };
  Elf64_Ehdr header = {};
  std::vector<Part> parts;

  ElfBuilder() {
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_ident[EI_VERSION] = EV_CURRENT;
    header.e_type = ET_EXEC;
    header.e_machine = EM_X86_64;
    header.e_version = EV_CURRENT;
    header.e_phoff = sizeof header;
    header.e_ehsize = sizeof header;
    header.e_phentsize = sizeof(Elf64_Phdr);
  }
  ElfBuilder& load(std::uint64_t address, std::string content, std::uint64_t zeroes = 0) {
    Elf64_Phdr program = {};
    program.p_type = PT_LOAD;
    program.p_paddr = address;
    program.p_vaddr = address | 0xFFFF'FFFF'8000'0000;
    program.p_filesz = content.size();
    program.p_memsz = content.size() + zeroes;
    parts.push_back({program, std::move(content)});
    return *this;
  }
  ElfBuilder& notes(std::string content, std::uint64_t align = 4) {
    Elf64_Phdr program = {};
    program.p_type = PT_NOTE;
    program.p_filesz = program.p_memsz = content.size();
    program.p_align = align;
    parts.push_back({program, std::move(content)});
    return *this;
  }
  /// Sets e_phnum and the parts' p_offset, one behind the other after the program headers.
  ElfBuilder& arrange() {
    header.e_phnum = static_cast<Elf64_Half>(parts.size());
    std::uint64_t offset = sizeof header + parts.size() * sizeof(Elf64_Phdr);
    for (Part& part : parts) {
      part.program.p_offset = offset;
      offset += part.content.size();
    }
    return *this;
  }
  [[nodiscard]] std::string bytes() const {
    std::string out;
    append(out, header);
    for (const Part& part : parts) append(out, part.program);
    for (const Part& part : parts) out += part.content;
    return out;
  }
};

/// A kernel that load_kernel takes: 8 bytes of code at 1 MiB, entered at its second byte, and 100 of BSS.
inline ElfBuilder small_elf() {
  ElfBuilder elf;
  elf.load(kMiB, "KERNCODE", 100).notes(note("GNU", 3, "build-id") + pvh_note(kMiB + 1)).arrange();
  return elf;
}

/// A bzImage of a 64-bit kernel with one setup sector and `payload` as its protected-mode part.
struct BzImageBuilder {
  setup_header header = {};
  std::string payload;
  std::uint8_t header_end = 0x6C;  // from 0x202 on: protocol 2.15
  char old_boot_code = '\xFF';     // what fills the first sectors outside the header, the sentinel too

  explicit BzImageBuilder(std::string content = std::string(0x400, 'K')) : payload(std::move(content)) {
    header.setup_sects = 1;
    header.syssize = static_cast<std::uint32_t>(payload.size() / 16);
    header.boot_flag = 0xAA55;
    header.header = 0x5372'6448;
    header.version = 0x020F;
    header.loadflags = LOADED_HIGH | KASLR_FLAG;
    header.initrd_addr_max = 0x7FFF'FFFF;
    header.kernel_alignment = 0x20'0000;
    header.relocatable_kernel = 1;
    header.xloadflags = XLF_KERNEL_64 | XLF_CAN_BE_LOADED_ABOVE_4G;
    header.cmdline_size = 2047;
    header.setup_data = 0x1122'3344'5566'7788;
    header.pref_address = 2 * kMiB;
    header.init_size = 3 * kMiB;
  }
  [[nodiscard]] std::string bytes() const {
    std::string out(std::size_t{512} * (header.setup_sects + 1U), old_boot_code);
    std::memcpy(out.data() + offsetof(boot_params, hdr), &header, sizeof header);
    out[0x200] = '\xEB';
    out[0x201] = static_cast<char>(header_end);
    return out + payload;
  }
};

/// load_kernel of images in memory.
inline Result<LoadedKernel> load(const TestMemory& memory, std::string_view kernel, std::string cmdline = "",
                                 std::string_view initramfs = {}, std::uint64_t rsdp = 0xE'0000) {
  const UniqueFd kernel_fd = file_of(kernel);
  const UniqueFd initramfs_fd = initramfs.empty() ? UniqueFd() : file_of(initramfs);
  const BootFiles files{kernel_fd.get(), "/k/vmlinux", initramfs_fd.get(), "/k/initrd", std::move(cmdline)};
  return load_kernel(memory.guest, memory.ram, files, devices::GuestAddress(rsdp));
}

/// The error's text, or nothing where it went well.
template <class T>
std::string error_of(const Result<T>& result) {
  return result ? std::string() : result.error().to_string();
}

/// Is `part` in `text`? Shows the text where it is not.
inline bool says(const std::string& text, std::string_view part) {
  if (text.find(part) != std::string::npos) return true;
  std::fprintf(stderr, "wanted \"%.*s\" in: %s\n", static_cast<int>(part.size()), part.data(), text.c_str());
  return false;
}

}  // namespace vmmd::x86::testing
