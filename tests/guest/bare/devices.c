// Has a driver for every virtio device that a user without rights can give a VM, and for a PC's old ones. By
// polling, all queues from the first chain on. Each line is a job, answered by one line:
//   w SEED SECTOR, c SEED SECTOR    write a sector of the disk, check it: "wrote", "good" or "bad"
//   W SEED PAGE, C SEED PAGE        the same of persistent memory
//   r        16 bytes of the rng: "random N M"
//   o WORD   a line for the virtio console: "said"
//   b        one page more into the balloon: "given N"
//   v        "cid N events M": of vsock, and how often it was reset
//   p        "pings N": of the watchdog, one a second
//   k        "pic M S elcr E cmos C"
// A seed and the place make what is in a sector and a page; the base of the disk and of the persistent memory
// is made of seed 1.
#include "virtio.h"

enum { kVirtioConsole = 3, kVirtioRng = 4, kVirtioBalloon = 5, kVirtioVsock = 19, kVirtioPmem = 27 };
enum { kSector = 512, kPage = 4096, kVsockBuffers = 4, kTick = 2 * 1000 * 1000, kTicksPerPing = 500 };

static struct virtio disk, console, rng, balloon, vsock, pmem, dog;
static struct queue disk_queue, console_in, console_out, rng_queue, inflate, deflate;
static struct queue vsock_in, vsock_out, vsock_events, pmem_queue, dog_queue;
static u8 sector[kSector], input[64], packets[kVsockBuffers][256];
static u8 pages[64][kPage] __attribute__((aligned(4096)));
static u32 event;
static u64 events, given, pings, ticks;

static u64 word_at(u64 seed, u64 place, u64 i) {
  u64 x = (seed << 32 ^ place << 12 ^ i) * 0x9E3779B97F4A7C15;
  return x ^ x >> 29;
}

static void fill(volatile u64* words, u64 count, u64 seed, u64 place) {
  for (u64 i = 0; i < count; i++) words[i] = word_at(seed, place, i);
}

static const char* compare(volatile const u64* words, u64 count, u64 seed, u64 place) {
  for (u64 i = 0; i < count; i++)
    if (words[i] != word_at(seed, place, i)) return "bad\n";
  return "good\n";
}

// The chain of these descriptors, to its end.
static void exchange(struct queue* queue, const struct descriptor* chain, u16 count) {
  for (u16 i = 0; i < count; i++) {
    queue->descriptors[i] = chain[i];
    if (i + 1 == count) continue;
    queue->descriptors[i].flags |= kDescriptorNext;
    queue->descriptors[i].next = (u16)(i + 1);
  }
  queue_add(queue, 0);
  queue_publish(queue);
  while (queue_take(queue) < 0) pause();
}

static const char* transfer(bool write, u64 seed, u64 number) {
  struct {
    u32 type, reserved;
    u64 sector;
  } header = {write, 0, number};
  volatile u8 status = 0xff;
  if (write) fill((u64*)sector, kSector / 8, seed, number);
  exchange(&disk_queue,
           (struct descriptor[]){{(u64)&header, 16, 0, 0},
                                 {(u64)sector, kSector, write ? 0 : kDescriptorWrite, 0},
                                 {(u64)&status, 1, kDescriptorWrite, 0}},
           3);
  if (status != 0) return "failed\n";
  return write ? "wrote\n" : compare((u64*)sector, kSector / 8, seed, number);
}

static const char* touch(bool write, u64 seed, u64 page) {
  volatile u64* words = (volatile u64*)(*(volatile u64*)pmem.device + page * kPage);
  if (!write) return compare(words, kPage / 8, seed, page);
  u32 request = 0;
  volatile u32 answer = 1;
  fill(words, kPage / 8, seed, page);
  exchange(&pmem_queue,
           (struct descriptor[]){{(u64)&request, 4, 0, 0}, {(u64)&answer, 4, kDescriptorWrite, 0}}, 2);
  return answer == 0 ? "wrote\n" : "failed\n";
}

static void ping(void) {
  volatile u8 answer = 0;
  exchange(&dog_queue, (struct descriptor[]){{(u64)&answer, 1, kDescriptorWrite, 0}}, 1);
  pings++;
}

static void give_page(void) {
  u32 frame = (u32)((u64)pages[given % 64] / kPage);
  exchange(&inflate, (struct descriptor[]){{(u64)&frame, 4, 0, 0}}, 1);
  given++;
}

static void offer(struct queue* queue, u16 slot, void* buffer, u32 length) {
  queue->descriptors[slot] = (struct descriptor){(u64)buffer, length, kDescriptorWrite, 0};
  queue_add(queue, slot);
  queue_publish(queue);
}

static void take_events(void) {
  while (queue_take(&vsock_events) >= 0) {
    events++;
    offer(&vsock_events, 0, &event, sizeof event);
  }
}

static void on_tick(void) {
  ticks++;
}

// read_line(), with a ping in time.
static void wait_line(char* line, size_t size) {
  size_t n = 0;
  for (;;) {
    int c = serial_getc();
    if (c == '\n') break;
    if (c >= 0 && n + 1 < size) line[n++] = (char)c;
    if (c < 0) wait_interrupt();
    if (ticks >= kTicksPerPing) {
      ticks = 0;
      ping();
    }
  }
  line[n] = 0;
}

static void cmos_select(u8 index) {
  outb(kRtcPort, index);
}

static void start_old_devices(void) {
  outb(0x20, 0x11);  // ICW1 to ICW4: cascaded, vectors 0x70 and 0x78
  outb(0xA0, 0x11);
  outb(0x21, 0x70);
  outb(0xA1, 0x78);
  outb(0x21, 4);
  outb(0xA1, 2);
  outb(0x21, 1);
  outb(0xA1, 1);
  outb(0x21, 0xFF);  // all of the first are masked, so nothing arrives
  outb(0xA1, 0xBD);
  outb(0x4D0, 0x20);
  outb(0x4D1, 0x0C);
  outb(0x43, 0x34);  // channel 0, low and high byte, rate generator
  outb(0x40, 0x39);
  outb(0x40, 0x30);
  cmos_select(0x40);
  outb(kRtcPort + 1, 0x5A);
}

static bool start_device(unsigned type, struct virtio* device, u64 features) {
  if (!virtio_find(type, device)) return false;
  virtio_begin(device, features);
  return true;
}

static bool start_devices(void) {
  if (!start_device(kVirtioBlock, &disk, VIRTIO_EVENT_INDEX) || !start_device(kVirtioConsole, &console, 0) ||
      !start_device(kVirtioRng, &rng, VIRTIO_EVENT_INDEX) || !start_device(kVirtioBalloon, &balloon, 0) ||
      !start_device(kVirtioVsock, &vsock, 0) || !start_device(kVirtioPmem, &pmem, 0) ||
      !start_device(kVirtioWatchdog, &dog, 0))
    return false;
  virtio_queue(&disk, 0, &disk_queue);
  virtio_queue(&console, 0, &console_in);
  virtio_queue(&console, 1, &console_out);
  virtio_queue(&rng, 0, &rng_queue);
  virtio_queue(&balloon, 0, &inflate);
  virtio_queue(&balloon, 1, &deflate);
  virtio_queue(&vsock, 0, &vsock_in);
  virtio_queue(&vsock, 1, &vsock_out);
  virtio_queue(&vsock, 2, &vsock_events);
  virtio_queue(&pmem, 0, &pmem_queue);
  virtio_queue(&dog, 0, &dog_queue);
  struct virtio* all[] = {&disk, &console, &rng, &balloon, &vsock, &pmem, &dog};
  for (unsigned i = 0; i < sizeof all / sizeof all[0]; i++) virtio_ready(all[i]);
  offer(&console_in, 0, input, sizeof input);
  for (u16 i = 0; i < kVsockBuffers; i++) offer(&vsock_in, i, packets[i], sizeof packets[i]);
  offer(&vsock_events, 0, &event, sizeof event);
  map_memory(*(volatile u64*)pmem.device + *(volatile u64*)(pmem.device + 8));
  return true;
}

static void run(char* line) {
  const char* p = line + 1;
  u64 seed = line[0] == 'o' ? 0 : parse_number(&p), place = line[0] == 'o' ? 0 : parse_number(&p);
  switch (line[0]) {
    case 'w':
    case 'c':
      print("%s", transfer(line[0] == 'w', seed, place));
      break;
    case 'W':
    case 'C':
      print("%s", touch(line[0] == 'W', seed, place));
      break;
    case 'r': {
      volatile u64 numbers[2] = {0, 0};
      exchange(&rng_queue, (struct descriptor[]){{(u64)numbers, 16, kDescriptorWrite, 0}}, 1);
      print("random %x %x\n", numbers[0], numbers[1]);
      break;
    }
    case 'o': {
      u32 length = 0;
      while (line[length] != 0) length++;
      line[length] = '\n';  // there is room: lines are shorter than their buffer
      exchange(&console_out, (struct descriptor[]){{(u64)(line + 2), length - 1, 0, 0}}, 1);
      print("said\n");
      break;
    }
    case 'b':
      give_page();
      print("given %u\n", given);
      break;
    case 'v':
      take_events();
      print("cid %u events %u\n", *(volatile u64*)vsock.device, events);
      break;
    case 'p':
      print("pings %u\n", pings);
      break;
    case 'k':
      cmos_select(0x40);
      print("pic %x %x elcr %x cmos %x\n", (u64)inb(0x21), (u64)inb(0xA1),
            (u64)(inb(0x4D1) << 8 | inb(0x4D0)), (u64)inb(kRtcPort + 1));
      break;
    default:
      print("what is \"%s\"?\n", line);
  }
}

void guest_main(void) {
  char line[66];
  start_old_devices();
  if (!start_devices()) {
    print("a device is missing\n");
    stop();
  }
  ping();
  on_interrupt(62, on_tick);
  lapic_timer(62, kTimerPeriodic, kTick);
  print("devices ready\n");
  for (;;) {
    wait_line(line, sizeof line - 2);
    run(line);
  }
}
