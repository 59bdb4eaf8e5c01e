// A kernel that comes as a bzImage: says what Linux' 64-bit boot protocol handed it, then echoes lines.
#include "runtime.h"

// boot_params (Linux' Documentation/arch/x86/zero-page.rst); only what is read.
enum {
  kAcpiRsdp = 0x70,
  kExtRamdiskImage = 0xC0,
  kExtRamdiskSize = 0xC4,
  kE820Entries = 0x1E8,
  kE820Table = 0x2D0
};
enum {
  kTypeOfLoader = 0x210,
  kRamdiskImage = 0x218,
  kRamdiskSize = 0x21C,
  kCmdlinePointer = 0x228,
  kE820Limit = 128
};
struct __attribute__((packed)) e820_entry {
  u64 start, size;
  u32 type;
};

static const u8* zero_page;
static u64 loader_tables, loader_code;

static u32 field(u32 offset) {
  return *(const u32*)(zero_page + offset);
}

static u64 wide_field(u32 low, u32 high) {
  return field(low) | (u64)field(high) << 32;
}

// From the entry in bzimage.S: the runtime gets the same facts as from PVH.
void zero_page_main(const u8* page, u64 tables, u64 code) {
  static struct memory_map_entry map[kE820Limit];
  static struct start_info info = {.magic = kStartMagic, .version = 1};
  zero_page = page;
  loader_tables = tables;
  loader_code = code;
  const struct e820_entry* table = (const struct e820_entry*)(page + kE820Table);
  for (u32 i = 0; i < page[kE820Entries] && i < kE820Limit; i++) {
    map[i].start = table[i].start;
    map[i].size = table[i].size;
    map[i].type = table[i].type;
    info.memory_map_entries++;
  }
  info.memory_map = (u64)map;
  info.command_line = field(kCmdlinePointer);
  runtime_main(&info);
}

// FNV-1a, so that a test can tell whether the initramfs arrived whole.
static u64 digest(const u8* data, u64 size) {
  u64 hash = 0xcbf29ce484222325;
  while (size-- > 0) hash = (hash ^ *data++) * 0x100000001b3;
  return hash;
}

void guest_main(void) {
  char line[128];
  print("bzimage loader %x cs %x cr3 %x\n", (u64)zero_page[kTypeOfLoader], loader_code, loader_tables);
  print("cmdline %s\n", (const char*)(u64)field(kCmdlinePointer));
  u64 start, size;
  for (unsigned i = 0; ram_range(i, &start, &size); i++) print("ram %x %x\n", start, size);
  const u8* initramfs = (const u8*)wide_field(kRamdiskImage, kExtRamdiskImage);
  size = wide_field(kRamdiskSize, kExtRamdiskSize);
  print("initramfs %x %u %x\n", (u64)initramfs, size, digest(initramfs, size));
  char signature[9] = {0};
  const char* rsdp = (const char*)wide_field(kAcpiRsdp, kAcpiRsdp + 4);
  for (int i = 0; rsdp && i < 8; i++) signature[i] = rsdp[i];
  print("rsdp %s\n", signature);
  for (;;) {
    read_line(line, sizeof line);
    print("echo %s\n", line);
  }
}
