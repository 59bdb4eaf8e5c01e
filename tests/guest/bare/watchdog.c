// Drives the virtio watchdog (PCI device 31), for which Linux has no driver: each line "ping" is a ping,
// answered by "pong N" with what the device wrote; any other line is echoed.
#include "virtio.h"

static struct virtio device;
static struct queue queue;
static volatile u8 answer;

static void ping(void) {
  answer = 0;
  queue.descriptors[0] = (struct descriptor){(u64)&answer, 1, kDescriptorWrite, 0};
  queue_add(&queue, 0);
  queue_publish(&queue);
  while (queue_take(&queue) < 0) pause();
  print("pong %u\n", (u64)answer);
}

void guest_main(void) {
  char line[64];
  if (!virtio_find(kVirtioWatchdog, &device)) {
    print("no watchdog\n");
    stop();
  }
  virtio_begin(&device, 0);
  virtio_queue(&device, 0, &queue);
  virtio_ready(&device);
  print("watchdog %x ready\n", (u64)(pci_read(device.slot, 0) >> 16));
  for (;;) {
    read_line(line, sizeof line);
    if (line[0] == 'p')
      ping();
    else
      print("echo %s\n", line);
  }
}
