#include "daemon/x86/elf_image.h"

#include <elf.h>

#include <algorithm>
#include <optional>
#include <string>

#include "base/file.h"

namespace vmmd::x86 {

namespace {

using namespace std::string_view_literals;

// A vmlinux has five program headers and some hundred bytes of notes.
constexpr unsigned kMaxProgramHeaders = 64;
constexpr std::uint64_t kMaxNoteBytes = 64 << 10;

constexpr std::uint32_t kXenNotePhys32Entry = 18;  // xen/include/public/elfnote.h, XEN_ELFNOTE_PHYS32_ENTRY

static_assert(sizeof(Elf64_Ehdr) + kMaxProgramHeaders * sizeof(Elf64_Phdr) <= KernelFile::kHeadSize,
              "usual kernels need no second read for their program headers");

struct Notes {
  std::optional<std::uint64_t> pvh_entry;
  bool is_linux = false;
};

Status check_header(const KernelFile& kernel, const Elf64_Ehdr& header) {
  const std::string& name = kernel.name;
  if (header.e_ident[EI_CLASS] == ELFCLASS32) {
    return fail(ErrorCode::BadRequest,
                "kernel {} is a 32-bit ELF file: give a 64-bit kernel, or the bzImage of the 32-bit one",
                name);
  }
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB ||
      header.e_ident[EI_VERSION] != EV_CURRENT) {
    return fail(ErrorCode::BadRequest, "kernel {} is not a little-endian ELF64 file of version 1", name);
  }
  if (header.e_machine != EM_X86_64) {
    return fail(ErrorCode::BadRequest, "kernel {} is for another machine (ELF machine {}, x86-64 is {})",
                name, header.e_machine, EM_X86_64);
  }
  if (header.e_type != ET_EXEC && header.e_type != ET_DYN) {
    return fail(ErrorCode::BadRequest, "kernel {} is not an executable (ELF type {}): perhaps an object file",
                name, header.e_type);
  }
  if (header.e_phentsize != sizeof(Elf64_Phdr) || header.e_phnum == 0 ||
      header.e_phnum > kMaxProgramHeaders) {
    return fail(ErrorCode::BadRequest,
                "kernel {} has {} program headers of {} bytes; 1 to {} of {} bytes are expected", name,
                header.e_phnum, header.e_phentsize, kMaxProgramHeaders, sizeof(Elf64_Phdr));
  }
  return {};
}

Result<std::vector<Elf64_Phdr>> read_program_headers(const KernelFile& kernel, const Elf64_Ehdr& header) {
  std::vector<Elf64_Phdr> headers(header.e_phnum);
  const std::span<std::byte> bytes = std::as_writable_bytes(std::span(headers));
  if (header.e_phoff > kernel.size || bytes.size() > kernel.size - header.e_phoff) {
    return fail(ErrorCode::BadRequest,
                "kernel {} is truncated: its program headers are at {:#x}, the file has {:#x} bytes",
                kernel.name, header.e_phoff, kernel.size);
  }
  const auto head = kernel.head();
  if (header.e_phoff <= head.size() && bytes.size() <= head.size() - header.e_phoff) {
    std::copy_n(head.begin() + static_cast<std::ptrdiff_t>(header.e_phoff), bytes.size(), bytes.begin());
  } else {
    VMMD_TRY(read_exact_at(kernel.fd, bytes, header.e_phoff, kernel.name));
  }
  return headers;
}

/// Checks one PT_LOAD header on its own.
Result<ElfImage::Segment> check_segment(const KernelFile& kernel, unsigned index, const Elf64_Phdr& header) {
  if (header.p_filesz > header.p_memsz) {
    return fail(ErrorCode::BadRequest,
                "kernel {}: segment {} has {:#x} bytes in the file but {:#x} in memory", kernel.name, index,
                header.p_filesz, header.p_memsz);
  }
  if (header.p_offset > kernel.size || header.p_filesz > kernel.size - header.p_offset) {
    return fail(ErrorCode::BadRequest,
                "kernel {} is truncated: segment {} has {:#x} bytes at {:#x}, the file has {:#x}",
                kernel.name, index, header.p_filesz, header.p_offset, kernel.size);
  }
  if (header.p_paddr + header.p_memsz < header.p_paddr) {
    return fail(ErrorCode::BadRequest, "kernel {}: segment {} at {:#x} with {:#x} bytes wraps around",
                kernel.name, index, header.p_paddr, header.p_memsz);
  }
  return ElfImage::Segment{
      index, header.p_offset, header.p_filesz, {header.p_paddr, header.p_paddr + header.p_memsz}};
}

/// Reads one PT_NOTE segment. gABI: three words, then owner and descriptor, each padded to the alignment.
Status read_notes(const KernelFile& kernel, unsigned index, const Elf64_Phdr& header, Notes& notes) {
  if (header.p_filesz > kMaxNoteBytes) {
    return fail(ErrorCode::BadRequest, "kernel {}: note segment {} has {} bytes; at most {} are read",
                kernel.name, index, header.p_filesz, kMaxNoteBytes);
  }
  if (header.p_offset > kernel.size || header.p_filesz > kernel.size - header.p_offset) {
    return fail(ErrorCode::BadRequest,
                "kernel {} is truncated: note segment {} has {:#x} bytes at {:#x}, the file has {:#x}",
                kernel.name, index, header.p_filesz, header.p_offset, kernel.size);
  }
  std::string bytes(header.p_filesz, '\0');
  VMMD_TRY(read_exact_at(kernel.fd, std::as_writable_bytes(std::span(bytes)), header.p_offset, kernel.name));

  const std::size_t align = header.p_align == 8 ? 8 : 4;
  const auto padded = [&](std::size_t size) { return (size + align - 1) & ~(align - 1); };
  // Sizes are 32 bits wide and positions stay below kMaxNoteBytes: no sum here can wrap.
  std::size_t at = 0;
  while (bytes.size() - at >= sizeof(Elf64_Nhdr)) {
    Elf64_Nhdr note;
    std::memcpy(&note, bytes.data() + at, sizeof note);
    const std::size_t owner_at = at + sizeof note;
    const std::size_t value_at = padded(owner_at + note.n_namesz);
    if (value_at > bytes.size() || note.n_descsz > bytes.size() - value_at) {
      return fail(ErrorCode::BadRequest,
                  "kernel {}: the note at byte {} of note segment {} is longer than the segment", kernel.name,
                  at, index);
    }
    const std::string_view owner(bytes.data() + owner_at, note.n_namesz);
    if (owner == "Linux\0"sv) notes.is_linux = true;
    if (owner == "Xen\0"sv && note.n_type == kXenNotePhys32Entry) {
      // Linux writes a word of the kernel's own width.
      if (note.n_descsz != 4 && note.n_descsz != 8) {
        return fail(ErrorCode::BadRequest, "kernel {}: the PVH entry note has {} bytes, not 4 or 8",
                    kernel.name, note.n_descsz);
      }
      std::uint64_t entry = 0;
      std::memcpy(&entry, bytes.data() + value_at, note.n_descsz);
      notes.pvh_entry = entry;
    }
    at = std::min(padded(value_at + note.n_descsz), bytes.size());
  }
  return {};
}

Status check_together(const KernelFile& kernel, ElfImage& image) {
  std::vector<ElfImage::Segment>& segments = image.segments;
  if (segments.empty()) {
    return fail(ErrorCode::BadRequest, "kernel {} has no segment to load", kernel.name);
  }
  std::sort(segments.begin(), segments.end(),
            [](const auto& a, const auto& b) { return a.memory.start < b.memory.start; });
  for (std::size_t i = 1; i < segments.size(); ++i) {
    if (segments[i].memory.start < segments[i - 1].memory.end) {
      return fail(ErrorCode::BadRequest, "kernel {}: segments {} and {} overlap at {:#x}", kernel.name,
                  segments[i - 1].index, segments[i].index, segments[i].memory.start);
    }
  }
  const bool entry_loaded = std::any_of(segments.begin(), segments.end(), [&](const auto& segment) {
    return image.pvh_entry >= segment.memory.start &&
           image.pvh_entry - segment.memory.start < segment.file_size;
  });
  if (!entry_loaded || image.pvh_entry > UINT32_MAX) {
    return fail(ErrorCode::BadRequest,
                "kernel {}: its PVH entry {:#x} is not code of any segment below 4 GiB (physical addresses)",
                kernel.name, image.pvh_entry);
  }
  return {};
}

}  // namespace

Result<ElfImage> read_elf(const KernelFile& kernel) {
  const auto header = kernel.peek<Elf64_Ehdr>(0);
  if (!header) {
    return fail(ErrorCode::BadRequest, "kernel {} is truncated: {} bytes are too few for an ELF header",
                kernel.name, kernel.size);
  }
  VMMD_TRY(check_header(kernel, *header));
  VMMD_ASSIGN(const auto headers, read_program_headers(kernel, *header));

  Notes notes;
  ElfImage image;
  for (unsigned i = 0; i < headers.size(); ++i) {
    if (headers[i].p_type == PT_NOTE) VMMD_TRY(read_notes(kernel, i, headers[i], notes));
    if (headers[i].p_type != PT_LOAD || (headers[i].p_memsz == 0 && headers[i].p_filesz == 0)) continue;
    VMMD_ASSIGN(const auto segment, check_segment(kernel, i, headers[i]));
    image.segments.push_back(segment);
  }
  if (!notes.pvh_entry) {
    return fail(ErrorCode::BadRequest,
                "kernel {} is an ELF file without a PVH entry (note XEN_ELFNOTE_PHYS32_ENTRY): build it with "
                "CONFIG_PVH=y, or give its bzImage (arch/x86/boot/bzImage, vmlinuz)",
                kernel.name);
  }
  image.pvh_entry = *notes.pvh_entry;
  image.is_linux = notes.is_linux;
  VMMD_TRY(check_together(kernel, image));
  return image;
}

}  // namespace vmmd::x86
