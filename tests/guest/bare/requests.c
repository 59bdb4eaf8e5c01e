// Drives the first virtio disk and the first network from ring 3, which runs at native speed everywhere, by
// polling. Each line is a job, answered by one line:
//   write N DEPTH, read N DEPTH    N times 4 KiB of the disk, from its start and round again, DEPTH of them
//   at a time send N DEPTH SIZE              N frames of SIZE bytes of ethertype 0x88B5 receive N frames,
//   until N have come; says "receiving" when it is ready for them
//   break                          tells the disk of more requests than its ring holds; "broken"
// "<job> N us T latency L doorbells D kick K bad B": T for all; L nanoseconds from before the notification to
// the completion of one request and K of that for the doorbell alone, medians; D doorbells rung; B requests
// or frames that came back wrong. Each sector is stamped: (number of the sector + 1) * kStamp in its first 8
// bytes and their complement in its last. A frame has its number behind the Ethernet header. Words of the
// command line: "flags": without event index.
#include "virtio.h"

enum { kBlock = 4096, kSector = 512, kSectors = kBlock / kSector, kMaxDepth = 64, kMaxFrame = 2048 };
enum { kIn = 0, kOut = 1, kNetHeader = 12, kEthernetHeader = 14, kSamples = 1 << 16 };
#define kStamp 0x9E3779B97F4A7C15ull

static struct virtio disk, net;
static struct queue disk_queue, receive_queue, send_queue;
static u64 disk_blocks, cycles_per_ms;
static struct {
  u32 type, reserved;
  u64 sector;
} headers[kMaxDepth];
static volatile u8 answers[kMaxDepth];
static u64 started[kMaxDepth];
// Above the guest, which ends below 2 MiB.
static u8 (*const buffers)[kBlock] = (u8(*)[kBlock])0x200000;
static u32 *const latencies = (u32*)0x400000, *const kicks = (u32*)0x500000;

static struct job {
  char kind;  // of the command: w, r, s, e
  u64 count, depth, size;
  u64 done, bad, cycles, samples, kick_samples, doorbells;
  bool late;
} job;

static void sample(u32* samples, u64* count, u64 cycles) {
  if (*count < kSamples) samples[(*count)++] = (u32)cycles;
}

static u64 median(u32* values, u64 count) {
  for (u64 gap = count / 2; gap > 0; gap /= 2)
    for (u64 i = gap; i < count; i++) {
      u32 value = values[i];
      u64 at = i;
      for (; at >= gap && values[at - gap] > value; at -= gap) values[at] = values[at - gap];
      values[at] = value;
    }
  return count > 0 ? values[count / 2] : 0;
}

static void publish(struct queue* queue) {
  u64 doorbells = queue->doorbells, before = rdtsc();
  queue_publish(queue);
  if (queue->doorbells != doorbells) sample(kicks, &job.kick_samples, rdtsc() - before);
}

// The next used chain. A device that is silent for 30 s ends the job.
static int await(struct queue* queue) {
  u64 limit = rdtsc() + 30000 * cycles_per_ms;
  for (;;) {
    int head = queue_take(queue);
    if (head >= 0) return head;
    if (rdtsc() > limit) break;
    pause();
  }
  job.late = true;
  return -1;
}

static u64* stamp_at(u64 slot, u64 sector, bool end) {
  return (u64*)(buffers[slot] + sector * kSector + (end ? kSector - 8 : 0));
}

static void submit_block(u64 slot, u64 block) {
  headers[slot].type = job.kind == 'w' ? kOut : kIn;
  headers[slot].sector = block * kSectors;
  answers[slot] = 0xff;
  for (u64 i = 0; i < kSectors; i++) {
    u64 stamp = job.kind == 'w' ? (block * kSectors + i + 1) * kStamp : 0;
    *stamp_at(slot, i, false) = stamp;
    *stamp_at(slot, i, true) = ~stamp;
  }
  u16 head = (u16)(3 * slot);
  struct descriptor* chain = &disk_queue.descriptors[head];
  chain[0] = (struct descriptor){(u64)&headers[slot], 16, kDescriptorNext, (u16)(head + 1)};
  chain[1] =
      (struct descriptor){(u64)buffers[slot], kBlock,
                          (u16)(kDescriptorNext | (job.kind == 'w' ? 0 : kDescriptorWrite)), (u16)(head + 2)};
  chain[2] = (struct descriptor){(u64)&answers[slot], 1, kDescriptorWrite, 0};
  queue_add(&disk_queue, head);
}

static bool block_good(u64 slot) {
  if (answers[slot] != 0) return false;
  for (u64 i = 0; i < kSectors && job.kind == 'r'; i++) {
    u64 stamp = (headers[slot].sector + i + 1) * kStamp;
    if (*stamp_at(slot, i, false) != stamp || *stamp_at(slot, i, true) != ~stamp) return false;
  }
  return true;
}

static void submit_frame(u64 slot, u64 number) {
  u8* frame = buffers[slot] + kNetHeader;
  for (unsigned i = 0; i < kNetHeader; i++) buffers[slot][i] = 0;
  for (unsigned i = 0; i < 12; i++) frame[i] = (u8)(2 + 4 * i);  // locally administered, to one station
  frame[12] = 0x88;
  frame[13] = 0xB5;
  *(u64*)(frame + kEthernetHeader) = number;
  send_queue.descriptors[slot] = (struct descriptor){(u64)buffers[slot], (u32)(kNetHeader + job.size), 0, 0};
  queue_add(&send_queue, (u16)slot);
}

// Keeps `depth` requests in flight; all that have completed make room for as many new ones in one
// notification.
static u64 run_requests(u64 unused) {
  (void)unused;
  bool is_send = job.kind == 's';
  struct queue* queue = is_send ? &send_queue : &disk_queue;
  u64 doorbells = queue->doorbells, begun = 0, free_count = job.depth, begin = rdtsc();
  u8 free_slots[kMaxDepth];
  for (u64 i = 0; i < job.depth; i++) free_slots[i] = (u8)i;
  while (job.done < job.count) {
    u64 now = rdtsc();
    u16 added = queue->added;
    for (; begun < job.count && free_count > 0; begun++) {
      u8 slot = free_slots[--free_count];
      if (is_send)
        submit_frame(slot, begun);
      else
        submit_block(slot, begun % disk_blocks);
      started[slot] = now;
    }
    if (job.depth == 1) started[0] = rdtsc();
    if (queue->added != added) publish(queue);
    int head = await(queue);
    for (; head >= 0; head = queue_take(queue)) {
      u8 slot = (u8)(is_send ? head : head / 3);
      sample(latencies, &job.samples, rdtsc() - started[slot]);
      if (!is_send && !block_good(slot)) job.bad++;
      free_slots[free_count++] = slot;
      job.done++;
    }
    if (job.late) break;
  }
  job.cycles = rdtsc() - begin;
  job.doorbells = queue->doorbells - doorbells;
  return 0;
}

static void offer_buffer(u16 slot) {
  receive_queue.descriptors[slot] = (struct descriptor){
      (u64)buffers[kMaxDepth + slot / 2] + slot % 2 * kMaxFrame, kMaxFrame, kDescriptorWrite, 0};
  queue_add(&receive_queue, slot);
}

static u64 run_receive(u64 unused) {
  (void)unused;
  u64 doorbells = receive_queue.doorbells, begin = 0;
  while (job.done < job.count) {
    int head = await(&receive_queue);
    if (head < 0) break;
    if (begin == 0) begin = rdtsc();
    for (; head >= 0; head = queue_take(&receive_queue)) {
      const u8* frame = (const u8*)receive_queue.descriptors[head].address + kNetHeader;
      bool ours = frame[12] == 0x88 && frame[13] == 0xB5;
      if (ours && *(const u64*)(frame + kEthernetHeader) != job.done) job.bad++;
      if (ours) job.done = *(const u64*)(frame + kEthernetHeader) + 1;
      offer_buffer((u16)head);
    }
    publish(&receive_queue);
  }
  job.cycles = rdtsc() - begin;
  job.doorbells = receive_queue.doorbells - doorbells;
  return 0;
}

static u64 find_medians(u64 unused) {
  (void)unused;
  latencies[0] = (u32)median(latencies, job.samples);
  kicks[0] = (u32)median(kicks, job.kick_samples);
  return 0;
}

static void run(const char* line) {
  const char* words = line;
  while (*words > ' ') words++;
  job = (struct job){.kind = line[0] == 'r' && line[2] == 'c' ? 'e' : line[0]};
  job.count = parse_number(&words);
  job.depth = parse_number(&words);
  job.size = parse_number(&words);
  latencies[0] = kicks[0] = 0;
  struct virtio* device = job.kind == 'w' || job.kind == 'r' ? &disk : &net;
  u64 room = device == &disk ? disk_queue.size / 3 : send_queue.size;
  if (job.kind == 'e') {
    print("receiving\n");
  } else if (device->common == NULL || job.depth == 0 || job.depth > kMaxDepth || job.depth > room ||
             (job.kind == 's' && (job.size < kEthernetHeader + 8 || job.size > kMaxFrame - kNetHeader))) {
    print("cannot %s\n", line);
    return;
  }
  run_user(job.kind == 'e' ? run_receive : run_requests, 0);
  run_user(find_medians, 0);
  u64 per_us = cycles_per_ms / 1000;
  print("%s %u us %u latency %u doorbells %u kick %u bad %u\n", job.late ? "late" : "done", job.done,
        job.cycles / per_us, latencies[0] * 1000ull / per_us, job.doorbells, kicks[0] * 1000ull / per_us,
        job.bad);
}

static void break_ring(void) {
  disk_queue.added = (u16)(disk_queue.added + disk_queue.size + 1);
  queue_publish(&disk_queue);
  print("broken\n");
}

void guest_main(void) {
  char line[64];
  u64 features = option_given("flags") ? 0 : VIRTIO_EVENT_INDEX;
  cycles_per_ms = tsc_per_millisecond();
  if (virtio_find(kVirtioBlock, &disk)) {
    virtio_begin(&disk, features);
    virtio_queue(&disk, 0, &disk_queue);
    virtio_ready(&disk);
    disk_blocks = *(volatile u32*)disk.device / kSectors;  // the lower half of its capacity
  }
  if (virtio_find(kVirtioNet, &net)) {
    virtio_begin(&net, features);
    virtio_queue(&net, 0, &receive_queue);
    virtio_queue(&net, 1, &send_queue);
    virtio_ready(&net);
    for (u16 i = 0; i < receive_queue.size; i++) offer_buffer(i);
    queue_publish(&receive_queue);
  }
  print("ready blocks %u\n", disk_blocks);
  for (;;) {
    read_line(line, sizeof line);
    if (line[0] == 'b')
      break_ring();
    else
      run(line);
  }
}
