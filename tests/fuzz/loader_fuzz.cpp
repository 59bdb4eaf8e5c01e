#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

#include "daemon/x86/boot_layout.h"
#include "tests/unit/x86/kernel_images.h"

// Kernel files of any content: as they are, or as edits of an image that loads. Whatever the file says,
// nothing but RAM is written, nothing of it over the firmware tables, and what is called loaded can be
// started.
namespace {

using namespace vmmd;
using namespace vmmd::x86;
using namespace vmmd::x86::testing;
using devices::GuestAddress;

constexpr std::uint64_t kRamSize = 6 * kMiB;
constexpr std::size_t kMaxFile = 16 << 10;

void require(bool held) {
  if (!held) __builtin_trap();
}

std::string elf_template() {
  ElfBuilder elf = small_elf();
  elf.load(2 * kMiB, "DATA", 5000).notes(note("Linux", 0x100, "value")).load(0x3'0000, "LOW").arrange();
  return elf.bytes();
}

/// A list of {offset: u16, length: u8, bytes}; a length of 0 cuts or stretches the file to the offset.
std::string edited(std::string file, std::span<const std::uint8_t> edits) {
  while (edits.size() >= 3) {
    const std::size_t offset = (edits[0] + std::size_t{256} * edits[1]) % kMaxFile;
    const std::size_t length = std::min<std::size_t>(edits[2] % 32, edits.size() - 3);
    if (edits[2] == 0) {
      file.resize(offset);
    } else if (offset + length <= file.size()) {
      std::memcpy(file.data() + offset, edits.data() + 3, length);
    }
    edits = edits.subspan(3 + length);
  }
  return file;
}

void put(int fd, std::string_view content) {
  require(::ftruncate(fd, 0) == 0);
  require(write_all_at(fd, std::as_bytes(std::span(content)), 0, "fuzz").has_value());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::string elf = elf_template();
  static const std::string bzimage = BzImageBuilder().bytes();
  static const TestMemory memory(kRamSize, std::byte{0});
  static const UniqueFd kernel = file_of("");
  static const UniqueFd initramfs = file_of("");

  if (size < 4) return 0;
  const std::span<const std::uint8_t> rest(data + 4, size - 4);
  switch (data[0] % 3) {
    case 0:
      put(kernel.get(), std::string(rest.begin(), rest.end()));
      break;
    case 1:
      put(kernel.get(), edited(elf, rest));
      break;
    default:
      put(kernel.get(), edited(bzimage, rest));
      break;
  }
  // Initramfs sizes from none to more than fits; sparse, as its content does not matter.
  const std::uint64_t initramfs_size = std::uint64_t{data[1]} * 0x8000;
  require(::ftruncate(initramfs.get(), static_cast<off_t>(initramfs_size)) == 0);
  const BootFiles files{kernel.get(), "kernel", data[1] == 0 ? -1 : initramfs.get(), "initramfs",
                        std::string(std::size_t{data[2]} * 300, static_cast<char>(data[3]))};

  const std::span<std::byte> all = memory.guest.slice(GuestAddress(0), kRamSize);
  require(::madvise(all.data(), all.size(), MADV_DONTNEED) == 0);
  const auto loaded = load_kernel(memory.guest, memory.ram, files, GuestAddress(0xE'0000));
  static const std::string zeroes(memory::kHighMemoryStart - memory::kEbdaStart, '\0');
  require(std::memcmp(all.data() + memory::kEbdaStart, zeroes.data(), zeroes.size()) == 0);
  if (!loaded) {
    require(!loaded.error().messages.empty() && loaded.error().code == ErrorCode::BadRequest);
    return 0;
  }
  require(memory.guest.contains(loaded->entry, 1) && memory.guest.contains(loaded->boot_info, 56));
  kvm_regs regs = {};
  kvm_sregs sregs = {};
  require(set_boot_registers(*loaded, memory.guest, regs, sregs).has_value());
  return 0;
}
