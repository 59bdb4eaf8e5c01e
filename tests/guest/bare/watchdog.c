// Drives the virtio watchdog (PCI device 31), for which Linux has no driver: each line "ping" is a ping,
// answered by "pong N" with what the device wrote; any other line is echoed.
#include "runtime.h"

enum { kDevice = 31, kBar = 0xC0000000, kVendorCapability = 9, kCommonConfig = 1, kNotifyConfig = 2 };

static struct {
  u64 address;
  u32 length;
  u16 flags, next;
} descriptors[8] __attribute__((aligned(16)));
static volatile struct {
  u16 flags, index, ring[8];
} available __attribute__((aligned(2)));
static volatile struct {
  u16 flags, index;
  struct {
    u32 id, length;
  } ring[8];
} used __attribute__((aligned(4)));
static volatile u8 answer;
static volatile u8* common;
static volatile u16* doorbell;

static void outl(u16 port, u32 value) {
  __asm__ volatile("outl %0, %1" ::"a"(value), "Nd"(port));
}
static u32 inl(u16 port) {
  u32 value;
  __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
  return value;
}
static u32 pci_read(unsigned offset) {
  outl(0xCF8, 1u << 31 | kDevice << 11 | (offset & ~3u));
  return inl(0xCFC);
}
static void pci_write(unsigned offset, u32 value) {
  outl(0xCF8, 1u << 31 | kDevice << 11 | offset);
  outl(0xCFC, value);
}

// Registers of the common configuration (virtio 1.2, 4.1.4.3).
static void set8(unsigned offset, u8 value) {
  common[offset] = value;
}
static void set16(unsigned offset, u16 value) {
  *(volatile u16*)(common + offset) = value;
}
static void set32(unsigned offset, u32 value) {
  *(volatile u32*)(common + offset) = value;
}
static void set64(unsigned offset, const volatile void* address) {
  set32(offset, (u32)(u64)address);
  set32(offset + 4, (u32)((u64)address >> 32));
}

static void start_device(void) {
  u32 notify = 0, multiplier = 0;
  pci_write(0x10, kBar);
  pci_write(0x14, 0);
  pci_write(0x04, 6);  // memory, bus master
  for (unsigned at = pci_read(0x34) & 0xFC; at != 0; at = pci_read(at) >> 8 & 0xFC) {
    if ((pci_read(at) & 0xFF) != kVendorCapability) continue;
    u32 kind = pci_read(at) >> 24, offset = pci_read(at + 8);
    if (kind == kCommonConfig) common = (volatile u8*)(u64)(kBar + offset);
    if (kind == kNotifyConfig) {
      notify = offset;
      multiplier = pci_read(at + 16);
    }
  }
  set8(20, 0);
  set8(20, 1 | 2);
  set32(8, 1);   // the upper half of the features:
  set32(12, 1);  // VERSION_1
  set8(20, 1 | 2 | 8);
  set16(22, 0);  // queue 0
  set16(24, 8);
  set64(32, descriptors);
  set64(40, &available);
  set64(48, &used);
  doorbell = (volatile u16*)(kBar + notify + (u64) * (volatile u16*)(common + 30) * multiplier);
  set16(28, 1);
  set8(20, 1 | 2 | 8 | 4);
}

static void ping(void) {
  answer = 0;
  descriptors[0].address = (u64)&answer;
  descriptors[0].length = 1;
  descriptors[0].flags = 2;  // for the device to write
  available.ring[available.index % 8] = 0;
  available.index++;
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  *doorbell = 0;
  while (used.index != available.index) pause();
  print("pong %u\n", (u64)answer);
}

void guest_main(void) {
  char line[64];
  map_memory(4ull << 30);
  start_device();
  print("watchdog %x ready\n", (u64)(pci_read(0) >> 16));
  for (;;) {
    read_line(line, sizeof line);
    if (line[0] == 'p')
      ping();
    else
      print("echo %s\n", line);
  }
}
