#include "virtio.h"

enum { kBars = 0xC0000000, kBarSize = 0x10000, kVendorCapability = 9 };
enum { kCommonConfig = 1, kNotifyConfig = 2, kDeviceConfig = 4 };
enum { kAcknowledge = 1, kDriver = 2, kDriverOk = 4, kFeaturesOk = 8 };
// Registers of the common configuration (4.1.4.3).
enum {
  kDeviceFeatureSelect = 0,
  kDeviceFeature = 4,
  kDriverFeatureSelect = 8,
  kDriverFeature = 12,
  kStatus = 20
};
enum { kQueueSelect = 22, kQueueSize = 24, kQueueEnable = 28, kQueueNotifyOffset = 30 };
enum { kQueueDescriptors = 32, kQueueDriver = 40, kQueueDevice = 48 };

static void outl(u16 port, u32 value) {
  __asm__ volatile("outl %0, %1" ::"a"(value), "Nd"(port));
}
static u32 inl(u16 port) {
  u32 value;
  __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
  return value;
}

u32 pci_read(unsigned slot, unsigned offset) {
  outl(0xCF8, 1u << 31 | slot << 11 | (offset & ~3u));
  return inl(0xCFC);
}

void pci_write(unsigned slot, unsigned offset, u32 value) {
  outl(0xCF8, 1u << 31 | slot << 11 | offset);
  outl(0xCFC, value);
}

static void set16(struct virtio* device, unsigned offset, u16 value) {
  *(volatile u16*)(device->common + offset) = value;
}
static void set32(struct virtio* device, unsigned offset, u32 value) {
  *(volatile u32*)(device->common + offset) = value;
}
static void set_address(struct virtio* device, unsigned offset, const void* address) {
  set32(device, offset, (u32)(u64)address);
  set32(device, offset + 4, (u32)((u64)address >> 32));
}

bool virtio_find(unsigned type, struct virtio* device) {
  for (unsigned slot = 0; slot < 32; slot++) {
    if (pci_read(slot, 0) != ((0x1040 + type) << 16 | 0x1AF4)) continue;
    device->slot = slot;
    return true;
  }
  return false;
}

void virtio_begin(struct virtio* device, u64 features) {
  unsigned slot = device->slot;
  u64 bar = kBars + (u64)slot * kBarSize;
  pci_write(slot, 0x10, (u32)bar);
  pci_write(slot, 0x14, 0);
  pci_write(slot, 0x04, 6);  // memory, bus master
  for (unsigned at = pci_read(slot, 0x34) & 0xFC; at != 0; at = pci_read(slot, at) >> 8 & 0xFC) {
    if ((pci_read(slot, at) & 0xFF) != kVendorCapability) continue;
    u64 address = bar + pci_read(slot, at + 8);
    u32 kind = pci_read(slot, at) >> 24;
    if (kind == kCommonConfig) device->common = (volatile u8*)address;
    if (kind == kDeviceConfig) device->device = (volatile u8*)address;
    if (kind == kNotifyConfig) {
      device->notify = address;
      device->notify_multiplier = pci_read(slot, at + 16);
    }
  }
  device->common[kStatus] = 0;
  while (device->common[kStatus] != 0) pause();
  device->common[kStatus] = kAcknowledge | kDriver;
  device->features = 0;
  for (u32 half = 0; half < 2; half++) {
    set32(device, kDeviceFeatureSelect, half);
    u32 offered = *(volatile u32*)(device->common + kDeviceFeature);
    u32 taken = offered & (u32)((features | 1ull << 32) >> (32 * half));
    set32(device, kDriverFeatureSelect, half);
    set32(device, kDriverFeature, taken);
    device->features |= (u64)taken << (32 * half);
  }
  device->common[kStatus] = kAcknowledge | kDriver | kFeaturesOk;
}

void virtio_queue(struct virtio* device, unsigned index, struct queue* queue) {
  set16(device, kQueueSelect, (u16)index);
  u16 size = *(volatile u16*)(device->common + kQueueSize);
  queue->index = (u16)index;
  queue->size = size < kMaxQueue ? size : kMaxQueue;
  queue->has_events = (device->features & VIRTIO_EVENT_INDEX) != 0;
  // Both events follow rings of the queue's real size.
  queue->used_event = &queue->available.ring[queue->size];
  queue->available_event = (volatile u16*)((u8*)&queue->used + 4 + 8 * queue->size);
  queue->available.flags = kNoInterrupt;
  *queue->used_event = 0xffff;  // one interrupt in 65536, for which there is no vector
  set16(device, kQueueSize, queue->size);
  set_address(device, kQueueDescriptors, queue->descriptors);
  set_address(device, kQueueDriver, &queue->available);
  set_address(device, kQueueDevice, &queue->used);
  u16 offset = *(volatile u16*)(device->common + kQueueNotifyOffset);
  queue->doorbell = (volatile u16*)(device->notify + (u64)offset * device->notify_multiplier);
  set16(device, kQueueEnable, 1);
}

void virtio_ready(struct virtio* device) {
  device->common[kStatus] = kAcknowledge | kDriver | kFeaturesOk | kDriverOk;
}

void queue_publish(struct queue* queue) {
  u16 before = queue->told;
  queue->told = queue->added;
  __atomic_store_n(&queue->available.index, queue->added, __ATOMIC_RELEASE);
  // We write the index, then look whether the device sleeps; it the other way round.
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  if (queue->has_events) {
    if ((u16)(queue->added - *queue->available_event - 1) >= (u16)(queue->added - before)) return;
  } else if (*(volatile u16*)&queue->used.flags & kNoNotify) {
    return;
  }
  queue->doorbells++;
  *queue->doorbell = queue->index;
}

int queue_take(struct queue* queue) {
  if (__atomic_load_n(&queue->used.index, __ATOMIC_ACQUIRE) == queue->taken) return -1;
  return (int)queue->used.ring[queue->taken++ % queue->size].id;
}
