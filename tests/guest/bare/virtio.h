// Virtio devices on PCI and their split queues, the driver's side (virtio 1.2, 2.7 and 4.1). Setting up is
// ring 0's; queues and doorbells may be used from ring 3 too, where everything below 4 GiB is mapped.
#pragma once

#include "runtime.h"

enum {
  kVirtioNet = 1,
  kVirtioBlock = 2,
  kVirtioWatchdog = 35,
};
enum { kDescriptorNext = 1, kDescriptorWrite = 2, kNoInterrupt = 1, kNoNotify = 1, kMaxQueue = 256 };
// Feature bits that the driver may take besides VERSION_1, which it always takes.
#define VIRTIO_EVENT_INDEX (1ull << 29)

u32 pci_read(unsigned slot, unsigned offset);
void pci_write(unsigned slot, unsigned offset, u32 value);

struct virtio {
  unsigned slot;
  volatile u8 *common, *device;  // configuration structures; device: nullptr if it has none
  u64 notify;                    // address
  u32 notify_multiplier;
  u64 features;  // negotiated
};

struct descriptor {
  u64 address;
  u32 length;
  u16 flags, next;
};

struct queue {
  struct descriptor descriptors[kMaxQueue] __attribute__((aligned(16)));
  struct {
    u16 flags, index, ring[kMaxQueue + 1];  // then used_event
  } available __attribute__((aligned(4)));
  struct {
    u16 flags, index;
    struct {
      u32 id, length;
    } ring[kMaxQueue];
    u16 event;  // avail_event
  } used __attribute__((aligned(4)));
  // The driver's own.
  u16 index, size;
  u16 added, told,
      taken;  // available index with what is not published, as last published; used index as read
  bool has_events;
  volatile u16 *used_event, *available_event, *doorbell;
  u64 doorbells;  // rung so often
};

// The first device of that type; false: there is none.
bool virtio_find(unsigned type, struct virtio* device);
// Resets the device, gives it an address and takes those of `features` that it offers.
void virtio_begin(struct virtio* device, u64 features);
// At most kMaxQueue entries. No interrupts are asked for.
void virtio_queue(struct virtio* device, unsigned index, struct queue* queue);
void virtio_ready(struct virtio* device);

// Makes the chain that starts at `head` available; the device sees it after queue_publish().
static inline void queue_add(struct queue* queue, u16 head) {
  queue->available.ring[queue->added++ % queue->size] = head;
}
// Shows the device what was added, and rings its doorbell if it wants that.
void queue_publish(struct queue* queue);
// The head of the next used chain; -1: none yet.
int queue_take(struct queue* queue);
