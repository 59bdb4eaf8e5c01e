// Drives two disks and a network from ring 3 without a pause, with numbered and checksummed records, as deep
// as their rings take them. "go" begins; a frame with a flag ends it, when all that was begun is done:
//   disk D lane L next N           for each lane of disk D, which writes records 0, 1, … N - 1, one after the
//                                  other, into its kSlots blocks and round again
//   stopped sent S taken T bad B   S frames sent; T of the host's records taken, in order; B requests that
//                                  failed, or records that came torn
// "check D" reads back what the lanes of disk D have written last: "checked N bad B".
// A frame of ours has 8 bytes behind its Ethernet header that tell which of the host's records is awaited,
// then its own record, and is sent when it is at most kWindow beyond what the host has. A frame of the host's
// has 8 bytes with the number of ours that it awaits, 8 with the flag, then its record; it comes again until
// we have taken it, so others than the one awaited are passed over.
#include "virtio.h"

enum { kDisks = 2, kLanes = 16, kSlots = 32, kBlock = 4096, kSectors = kBlock / 512, kIn = 0, kOut = 1 };
enum {
  kNetHeader = 12,
  kEthernetHeader = 14,
  kFrameRoom = 2048,
  kSending = 64,
  kReceiving = 64,
  kWindow = 64
};
enum { kSent = 1024, kTaken = 128 };  // bytes of a record

static struct disk {
  struct virtio device;
  struct queue queue;
  u64 next[kLanes];
  struct {
    u32 type, reserved;
    u64 sector;
  } headers[kLanes];
  volatile u8 answers[kLanes];
  unsigned busy;
} disks[kDisks];
static struct virtio net;
static struct queue receive_queue, send_queue;
static u16 free_frames[kSending];
static u64 free_count, sent, has, taken, bad;
// Above the guest, which ends below 2 MiB.
static u8 (*const blocks)[kLanes][kBlock] = (u8(*)[kLanes][kBlock])0x200000;
static u8 (*const outgoing)[kFrameRoom] = (u8(*)[kFrameRoom])0x400000;
static u8 (*const incoming)[kFrameRoom] = (u8(*)[kFrameRoom])0x500000;

static void copy(void* to, const void* from, u64 size) {
  for (u64 i = 0; i < size; i++) ((u8*)to)[i] = ((const u8*)from)[i];
}

// As the Linux guest's records: number, seed, a pattern made of both, a sum of all.
static void fill(u64* record, u64 size, u64 number, u64 seed) {
  u64 sum = 0, words = size / 8;
  record[0] = number;
  record[1] = seed;
  for (u64 i = 2; i < words - 1; i++) {
    u64 x = number * 0x9E3779B97F4A7C15 ^ seed << 32 ^ i * 0xC2B2AE3D27D4EB4F;
    record[i] = x ^ x >> 31;
  }
  for (u64 i = 0; i < words - 1; i++) sum = (sum << 7 | sum >> 57) ^ record[i];
  record[words - 1] = sum;
}

static bool whole(const u64* record, u64 size, u64 seed) {
  static u64 scratch[kBlock / 8];
  fill(scratch, size, record[0], seed);
  for (u64 i = 0; i < size / 8; i++)
    if (record[i] != scratch[i]) return false;
  return true;
}

static u64 seed_of(const struct disk* disk, u64 lane) {
  return 100 * (u64)(1 + disk - disks) + lane;
}

static void submit(struct disk* disk, u64 lane, u64 number, u32 type) {
  u8* block = blocks[disk - disks][lane];
  u16 head = (u16)(3 * lane);
  struct descriptor* chain = &disk->queue.descriptors[head];
  if (type == kOut) fill((u64*)block, kBlock, number, seed_of(disk, lane));
  disk->headers[lane].type = type;
  disk->headers[lane].sector = (lane * kSlots + number % kSlots) * kSectors;
  disk->answers[lane] = 0xff;
  chain[0] = (struct descriptor){(u64)&disk->headers[lane], 16, kDescriptorNext, (u16)(head + 1)};
  chain[1] = (struct descriptor){
      (u64)block, kBlock, (u16)(kDescriptorNext | (type == kOut ? 0 : kDescriptorWrite)), (u16)(head + 2)};
  chain[2] = (struct descriptor){(u64)&disk->answers[lane], 1, kDescriptorWrite, 0};
  queue_add(&disk->queue, head);
  disk->busy++;
}

static void move_disk(struct disk* disk, bool more) {
  for (int head; (head = queue_take(&disk->queue)) >= 0;) {
    u64 lane = (u64)head / 3;
    disk->busy--;
    disk->next[lane]++;
    if (disk->answers[lane] != 0) bad++;
    if (more) submit(disk, lane, disk->next[lane], kOut);
  }
  if (disk->queue.added != disk->queue.told) queue_publish(&disk->queue);
}

static void move_sending(bool more) {
  for (int head; (head = queue_take(&send_queue)) >= 0;) free_frames[free_count++] = (u16)head;
  while (more && free_count > 0 && sent < has + kWindow) {
    static u64 record[kSent / 8];
    u16 slot = free_frames[--free_count];
    u8* frame = outgoing[slot] + kNetHeader;
    for (unsigned i = 0; i < kNetHeader; i++) outgoing[slot][i] = 0;
    for (unsigned i = 0; i < 12; i++) frame[i] = (u8)(2 + 4 * i);  // locally administered, to one station
    frame[12] = 0x88;
    frame[13] = 0xB5;
    fill(record, kSent, sent, 1);
    copy(frame + kEthernetHeader, &taken, 8);
    copy(frame + kEthernetHeader + 8, record, kSent);
    send_queue.descriptors[slot] =
        (struct descriptor){(u64)outgoing[slot], kNetHeader + kEthernetHeader + 8 + kSent, 0, 0};
    queue_add(&send_queue, slot);
    sent++;
  }
  if (send_queue.added != send_queue.told) queue_publish(&send_queue);
}

static void offer(u16 slot) {
  receive_queue.descriptors[slot] = (struct descriptor){(u64)incoming[slot], kFrameRoom, kDescriptorWrite, 0};
  queue_add(&receive_queue, slot);
}

// Whether the host says that it is enough.
static bool move_receiving(void) {
  bool enough = false;
  for (int head; (head = queue_take(&receive_queue)) >= 0; offer((u16)head)) {
    static u64 frame[2 + kTaken / 8];
    const u8* bytes = incoming[head] + kNetHeader;
    if (bytes[12] != 0x88 || bytes[13] != 0xB5) continue;
    copy(frame, bytes + kEthernetHeader, sizeof frame);
    if (!whole(frame + 2, kTaken, 2)) {
      bad++;
      continue;
    }
    if (frame[0] > has) has = frame[0];
    if (frame[1] != 0) enough = true;
    if (frame[2] == taken) taken++;
  }
  if (receive_queue.added != receive_queue.told) queue_publish(&receive_queue);
  return enough;
}

static u64 run(u64 unused) {
  (void)unused;
  bool more = true;
  for (int d = 0; d < kDisks; d++)
    for (u64 lane = 0; lane < kLanes; lane++) submit(&disks[d], lane, disks[d].next[lane], kOut);
  while (more || disks[0].busy || disks[1].busy || free_count < kSending) {
    if (move_receiving()) more = false;
    for (int d = 0; d < kDisks; d++) move_disk(&disks[d], more);
    move_sending(more);
    pause();
  }
  return 0;
}

static u64 check(u64 which) {
  struct disk* disk = &disks[which];
  u64 checked = 0;
  for (u64 lane = 0; lane < kLanes; lane++) {
    u64 next = disk->next[lane];
    for (u64 number = next > kSlots ? next - kSlots : 0; number < next; number++, checked++) {
      submit(disk, lane, number, kIn);
      queue_publish(&disk->queue);
      while (queue_take(&disk->queue) < 0) pause();
      disk->busy--;
      const u64* record = (const u64*)blocks[which][lane];
      if (disk->answers[lane] != 0 || record[0] != number || !whole(record, kBlock, seed_of(disk, lane)))
        bad++;
    }
  }
  return checked;
}

static void set_up(void) {
  unsigned found = 0;
  for (unsigned slot = 0; slot < 32 && found < kDisks; slot++) {
    if (pci_read(slot, 0) != ((0x1040u + kVirtioBlock) << 16 | 0x1AF4)) continue;
    struct disk* disk = &disks[found++];
    disk->device.slot = slot;
    virtio_begin(&disk->device, VIRTIO_EVENT_INDEX);
    virtio_queue(&disk->device, 0, &disk->queue);
    virtio_ready(&disk->device);
  }
  if (found < kDisks || !virtio_find(kVirtioNet, &net)) {
    print("two disks and a network are needed\n");
    stop();
  }
  virtio_begin(&net, VIRTIO_EVENT_INDEX);
  virtio_queue(&net, 0, &receive_queue);
  virtio_queue(&net, 1, &send_queue);
  virtio_ready(&net);
  for (u16 i = 0; i < kReceiving; i++) offer(i);
  queue_publish(&receive_queue);
  while (free_count < kSending) {
    free_frames[free_count] = (u16)free_count;
    free_count++;
  }
}

void guest_main(void) {
  char line[64];
  set_up();
  print("ready\n");
  for (;;) {
    read_line(line, sizeof line);
    if (line[0] == 'g') {
      run_user(run, 0);
      for (int d = 0; d < kDisks; d++)
        for (u64 lane = 0; lane < kLanes; lane++)
          print("disk %u lane %u next %u\n", (u64)d, lane, disks[d].next[lane]);
      print("stopped sent %u taken %u bad %u\n", sent, taken, bad);
    } else {
      u64 checked = run_user(check, line[6] == '1');
      print("checked %u bad %u\n", checked, bad);
    }
  }
}
