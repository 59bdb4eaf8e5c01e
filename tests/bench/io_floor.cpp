// The same I/O as a guest's, done by a plain host program: what tests/bench/run holds virtio devices against.
//
//   io-floor ring read|write FILE COUNT DEPTH   4 KiB each by io_uring, DEPTH in flight
//   io-floor call read|write FILE COUNT         4 KiB each by pread or pwrite
//   io-floor send TAP SIZE COUNT                frames written to a tap
//   io-floor receive TAP COUNT                  frames read from a tap; says "receiving" when it is ready
//   io-floor transmit TAP SIZE COUNT            frames into a tap from the host's side, as fast as they go
//   io-floor eventfd COUNT                      two threads wake each other, a round trip at a time, on two
//   CPUs if
//                                               there are two: as vCPU and device thread are
//   io-floor msi|irqfd COUNT                    an MSI to a vCPU that does not run, by KVM_SIGNAL_MSI or an
//   irqfd
//
// Prints "COUNT us T latency L cpu C": microseconds for all, nanoseconds of one (median), and nanoseconds of
// CPU that each has cost this process.

#include <fcntl.h>
#include <liburing.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <thread>
#include <vector>

#include "tests/bench/checked.h"

namespace {

constexpr std::size_t kBlock = 4096;
constexpr std::size_t kNetHeader = 12;  // struct virtio_net_hdr_mrg_rxbuf

std::int64_t now(clockid_t clock = CLOCK_MONOTONIC) {  // ns
  timespec time = {};
  clock_gettime(clock, &time);
  return time.tv_sec * 1'000'000'000 + time.tv_nsec;
}

class Meter {
 public:
  explicit Meter(std::size_t count) : count_(count) { samples_.reserve(count); }
  void start() {
    cpu_ = now(CLOCK_PROCESS_CPUTIME_ID);
    begin_ = now();
  }
  void sample(std::int64_t ns) { samples_.push_back(ns); }
  void report() {
    const std::int64_t took = now() - begin_;
    const std::int64_t cpu = now(CLOCK_PROCESS_CPUTIME_ID) - cpu_;
    std::sort(samples_.begin(), samples_.end());
    std::printf("%zu us %ld latency %ld cpu %ld\n", count_, took / 1000,
                samples_.empty() ? 0 : samples_[samples_.size() / 2],
                cpu / static_cast<std::int64_t>(count_));
  }

 private:
  std::size_t count_;
  std::int64_t begin_ = 0;
  std::int64_t cpu_ = 0;
  std::vector<std::int64_t> samples_;
};

struct File {
  int fd;
  std::size_t blocks;
};

File open_file(const char* path) {
  const int fd = checked(open(path, O_RDWR | O_CLOEXEC), path);
  const off_t size = lseek(fd, 0, SEEK_END);
  if (size < static_cast<off_t>(kBlock)) die("lseek");
  return {fd, static_cast<std::size_t>(size) / kBlock};
}

void ring(bool writes, const char* path, std::size_t count, unsigned depth) {
  const File file = open_file(path);
  io_uring ring = {};
  if (io_uring_queue_init(depth, &ring, 0) != 0) die("io_uring_queue_init");
  std::vector<std::array<char, kBlock>> buffers(depth);
  for (auto& buffer : buffers) buffer.fill('x');
  std::vector<std::int64_t> started(depth);
  std::vector<unsigned> free_slots(depth);
  for (unsigned i = 0; i < depth; ++i) free_slots[i] = i;
  Meter meter(count);
  meter.start();
  std::size_t begun = 0;
  std::size_t done = 0;
  while (done < count) {
    const std::int64_t start = now();
    for (; begun < count && !free_slots.empty(); ++begun) {
      const unsigned slot = free_slots.back();
      free_slots.pop_back();
      io_uring_sqe* sqe = io_uring_get_sqe(&ring);
      const std::uint64_t at = begun % file.blocks * kBlock;
      if (writes) {
        io_uring_prep_write(sqe, file.fd, buffers[slot].data(), kBlock, at);
      } else {
        io_uring_prep_read(sqe, file.fd, buffers[slot].data(), kBlock, at);
      }
      sqe->user_data = slot;
      started[slot] = start;
    }
    if (io_uring_submit_and_wait(&ring, 1) < 0) die("io_uring_submit_and_wait");
    const std::int64_t end = now();
    io_uring_cqe* cqe = nullptr;
    while (io_uring_peek_cqe(&ring, &cqe) == 0) {
      if (cqe->res != static_cast<int>(kBlock)) die("a request");
      const auto slot = static_cast<unsigned>(cqe->user_data);
      io_uring_cqe_seen(&ring, cqe);
      meter.sample(end - started[slot]);
      free_slots.push_back(slot);
      ++done;
    }
  }
  meter.report();
}

void call(bool writes, const char* path, std::size_t count) {
  const File file = open_file(path);
  std::array<char, kBlock> buffer{};
  Meter meter(count);
  meter.start();
  for (std::size_t i = 0; i < count; ++i) {
    const auto at = static_cast<off_t>(i % file.blocks * kBlock);
    const std::int64_t start = now();
    const ssize_t moved =
        writes ? pwrite(file.fd, buffer.data(), kBlock, at) : pread(file.fd, buffer.data(), kBlock, at);
    if (moved != static_cast<ssize_t>(kBlock)) die("pread or pwrite");
    meter.sample(now() - start);
  }
  meter.report();
}

int open_tap(const char* name) {
  const int fd = checked(open("/dev/net/tun", O_RDWR | O_CLOEXEC), "/dev/net/tun");
  ifreq request = {};
  std::strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  checked(ioctl(fd, TUNSETIFF, &request), name);
  int size = kNetHeader;
  checked(ioctl(fd, TUNSETVNETHDRSZ, &size), "TUNSETVNETHDRSZ");
  return fd;
}

// The same frames as tests/guest/bare/requests.c.
std::vector<unsigned char> make_frame(std::size_t header, std::size_t size) {
  std::vector<unsigned char> frame(header + size);
  for (unsigned i = 0; i < 12; ++i) frame[header + i] = static_cast<unsigned char>(2 + 4 * i);
  frame[header + 12] = 0x88;
  frame[header + 13] = 0xb5;
  return frame;
}

void send(const char* tap, std::size_t size, std::size_t count) {
  const int fd = open_tap(tap);
  std::vector<unsigned char> frame = make_frame(kNetHeader, size);
  Meter meter(count);
  meter.start();
  for (std::uint64_t i = 0; i < count; ++i) {
    std::memcpy(frame.data() + kNetHeader + 14, &i, sizeof i);
    const std::int64_t start = now();
    if (write(fd, frame.data(), frame.size()) != static_cast<ssize_t>(frame.size())) die("write to the tap");
    meter.sample(now() - start);
  }
  meter.report();
}

void receive(const char* tap, std::size_t count) {
  const int fd = open_tap(tap);
  checked(fcntl(fd, F_SETFL, O_NONBLOCK), "fcntl");
  std::printf("receiving\n");
  std::fflush(stdout);
  std::array<unsigned char, 2048> frame{};
  pollfd ready = {fd, POLLIN, 0};
  Meter meter(count);
  for (std::uint64_t next = 0; next < count;) {
    const ssize_t got = read(fd, frame.data(), frame.size());
    if (got < 0 && errno == EAGAIN) {
      checked(poll(&ready, 1, -1), "poll");
      continue;
    }
    if (got < 0) die("read from the tap");
    if (frame[kNetHeader + 12] != 0x88 || frame[kNetHeader + 13] != 0xb5) continue;
    if (next == 0) meter.start();
    std::memcpy(&next, frame.data() + kNetHeader + 14, sizeof next);
    ++next;
  }
  meter.report();
}

void transmit(const char* tap, std::size_t size, std::size_t count) {
  const int fd = checked(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0), "socket");
  sockaddr_ll to = {};
  to.sll_family = AF_PACKET;
  to.sll_ifindex = static_cast<int>(if_nametoindex(tap));
  checked(bind(fd, reinterpret_cast<sockaddr*>(&to), sizeof to), tap);
  constexpr std::size_t kBatch = 32;
  std::vector<std::vector<unsigned char>> frames(kBatch, make_frame(0, size));
  std::array<iovec, kBatch> parts{};
  std::array<mmsghdr, kBatch> messages{};
  for (std::uint64_t next = 0; next < count;) {
    unsigned batch = 0;
    for (; batch < kBatch && next < count; ++batch, ++next) {
      std::memcpy(frames[batch].data() + 14, &next, sizeof next);
      parts[batch] = {frames[batch].data(), frames[batch].size()};
      messages[batch].msg_hdr.msg_iov = &parts[batch];
      messages[batch].msg_hdr.msg_iovlen = 1;
    }
    for (unsigned sent = 0; sent < batch;) {
      sent += static_cast<unsigned>(checked(sendmmsg(fd, &messages[sent], batch - sent, 0), "sendmmsg"));
    }
  }
}

// Of those that we may use, the first to the main thread and the last to the other.
void stay_apart(bool first) {
  cpu_set_t allowed = {};
  checked(sched_getaffinity(0, sizeof allowed, &allowed), "sched_getaffinity");
  int chosen = 0;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(static_cast<std::size_t>(cpu), &allowed)) continue;
    chosen = cpu;
    if (first) break;
  }
  cpu_set_t mine = {};
  CPU_SET(static_cast<std::size_t>(chosen), &mine);
  checked(sched_setaffinity(0, sizeof mine, &mine), "sched_setaffinity");
}

void wake(std::size_t count) {
  const int there = checked(eventfd(0, EFD_CLOEXEC), "eventfd");
  const int back = checked(eventfd(0, EFD_CLOEXEC), "eventfd");
  eventfd_t value = 0;
  std::thread other([&] {
    stay_apart(false);
    eventfd_t got = 0;
    for (std::size_t i = 0; i < count; ++i) {
      checked(eventfd_read(there, &got), "eventfd_read");
      checked(eventfd_write(back, 1), "eventfd_write");
    }
  });
  Meter meter(count);
  stay_apart(true);
  meter.start();
  for (std::size_t i = 0; i < count; ++i) {
    const std::int64_t start = now();
    checked(eventfd_write(there, 1), "eventfd_write");
    checked(eventfd_read(back, &value), "eventfd_read");
    meter.sample(now() - start);
  }
  meter.report();
  other.join();
}

constexpr std::uint32_t kMsiAddress = 0xfee00000;  // to APIC 0
constexpr std::uint32_t kMsiVector = 0x40;

void interrupt(bool by_irqfd, std::size_t count) {
  const int kvm = checked(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
  const int vm = checked(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
  kvm_enable_cap split = {};
  split.cap = KVM_CAP_SPLIT_IRQCHIP;
  split.args[0] = 24;
  checked(ioctl(vm, KVM_ENABLE_CAP, &split), "KVM_CAP_SPLIT_IRQCHIP");
  const int vcpu = checked(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
  kvm_lapic_state lapic = {};
  checked(ioctl(vcpu, KVM_GET_LAPIC, &lapic), "KVM_GET_LAPIC");
  lapic.regs[0xf1] |= 1;  // software enable, bit 8 of the spurious vector register
  checked(ioctl(vcpu, KVM_SET_LAPIC, &lapic), "KVM_SET_LAPIC");

  kvm_msi msi = {};
  msi.address_lo = kMsiAddress;
  msi.data = kMsiVector;
  kvm_irq_routing_entry entry = {};
  entry.gsi = 24;
  entry.type = KVM_IRQ_ROUTING_MSI;
  entry.u.msi.address_lo = kMsiAddress;
  entry.u.msi.data = kMsiVector;
  std::vector<std::byte> table(sizeof(kvm_irq_routing) + sizeof entry);
  auto* routing = reinterpret_cast<kvm_irq_routing*>(table.data());
  routing->nr = 1;
  std::memcpy(routing->entries, &entry, sizeof entry);
  checked(ioctl(vm, KVM_SET_GSI_ROUTING, routing), "KVM_SET_GSI_ROUTING");
  kvm_irqfd irqfd = {};
  irqfd.fd = static_cast<std::uint32_t>(checked(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd"));
  irqfd.gsi = 24;
  checked(ioctl(vm, KVM_IRQFD, &irqfd), "KVM_IRQFD");
  Meter meter(count);
  meter.start();
  for (std::size_t i = 0; i < count; ++i) {
    const std::int64_t start = now();
    if (by_irqfd) {
      checked(eventfd_write(static_cast<int>(irqfd.fd), 1), "eventfd_write");
    } else {
      checked(ioctl(vm, KVM_SIGNAL_MSI, &msi), "KVM_SIGNAL_MSI");
    }
    meter.sample(now() - start);
  }
  meter.report();
}

int usage() {
  std::fprintf(stderr, "usage: see the head of tests/bench/io_floor.cpp\n");
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  const auto is = [&](std::string_view name, int arguments) {
    return argc == 2 + arguments && argv[1] == name;
  };
  const auto number = [&](int i) { return std::strtoul(argv[i], nullptr, 10); };
  const auto writes = [&] { return std::string_view(argv[2]) == "write"; };
  if (is("ring", 4)) {
    ring(writes(), argv[3], number(4), static_cast<unsigned>(number(5)));
  } else if (is("call", 3)) {
    call(writes(), argv[3], number(4));
  } else if (is("send", 3)) {
    send(argv[2], number(3), number(4));
  } else if (is("receive", 2)) {
    receive(argv[2], number(3));
  } else if (is("transmit", 3)) {
    transmit(argv[2], number(3), number(4));
  } else if (is("eventfd", 1)) {
    wake(number(2));
  } else if (is("msi", 1) || is("irqfd", 1)) {
    interrupt(is("irqfd", 1), number(2));
  } else {
    return usage();
  }
  return 0;
}
