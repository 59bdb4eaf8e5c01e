// What the kernel alone costs: the least that any VMM, daemon or writer of files has to pay on this host, at
// this hour. tests/bench/run measures it beside each of vmmd's figures.
//
//   floor vm SIZE_MIB ROUNDS [FILE]     one bare VM from open("/dev/kvm") to its first exit
//   floor warm SIZE_MIB ROUNDS [FILE]   the same with /dev/kvm open and the CPUID list known, as in a daemon
//   floor many SIZE_MIB COUNT FILE      COUNT of them in processes of their own; from the first fork to the
//   last exit floor byte                          a byte to descriptor 9: the cost of starting a program
//   floor vmbyte SIZE_MIB FILE          a bare VM, then a byte to descriptor 9: started with its program
//   floor echo                          answers each message on the socket at descriptor 9, until it is
//   closed floor write MIB PATH                writes a new file of that size, and fsync
//
// Guest RAM is FILE mapped private, or anonymous. Prints microseconds, one figure a line.

#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tests/bench/checked.h"

namespace {

constexpr int kReportFd = 9;
// mov $0x3f8, %dx; mov $'!', %al; out %al, %dx; hlt: what tests/guest/bare/start.S begins with.
constexpr std::uint8_t kGuest[] = {0xba, 0xf8, 0x03, 0xb0, '!', 0xee, 0xf4};
constexpr unsigned kMaxCpuid = 256;
constexpr std::uint64_t kIoapicPins = 24;

double now_us() {
  timespec time = {};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) * 1e6 + static_cast<double>(time.tv_nsec) / 1e3;
}

// A header and entries behind it, which C++ has no type for.
kvm_cpuid2* get_cpuid(int kvm) {
  alignas(kvm_cpuid2) static std::byte buffer[sizeof(kvm_cpuid2) + kMaxCpuid * sizeof(kvm_cpuid_entry2)];
  auto* cpuid = reinterpret_cast<kvm_cpuid2*>(buffer);
  cpuid->nent = kMaxCpuid;
  checked(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid), "KVM_GET_SUPPORTED_CPUID");
  return cpuid;
}

// From KVM_CREATE_VM to the first exit, in the order that is cheap: memory before the vCPU.
void run_vm(int kvm, kvm_cpuid2* known, std::size_t size, const char* file) {
  const int vm = checked(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
  kvm_enable_cap split = {};
  split.cap = KVM_CAP_SPLIT_IRQCHIP;
  split.args[0] = kIoapicPins;
  checked(ioctl(vm, KVM_ENABLE_CAP, &split), "KVM_CAP_SPLIT_IRQCHIP");

  const int fd = file != nullptr ? checked(open(file, O_RDONLY | O_CLOEXEC), file) : -1;
  const int flags = MAP_PRIVATE | MAP_NORESERVE | (file != nullptr ? 0 : MAP_ANONYMOUS);
  void* ram = mmap(nullptr, size, PROT_READ | PROT_WRITE, flags, fd, 0);
  if (ram == MAP_FAILED) die("mmap");
  std::memcpy(ram, kGuest, sizeof kGuest);
  // The 3 GiB below the PCI hole, and what is left above 4 GiB: the slots that a VMM needs.
  constexpr std::size_t kLow = std::size_t{3} << 30;
  kvm_userspace_memory_region region = {};
  region.memory_size = size < kLow ? size : kLow;
  region.userspace_addr = reinterpret_cast<std::uint64_t>(ram);
  checked(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
  if (size > kLow) {
    region.slot = 1;
    region.guest_phys_addr = std::uint64_t{4} << 30;
    region.memory_size = size - kLow;
    region.userspace_addr += kLow;
    checked(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
  }

  const int vcpu = checked(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
  const int run_size = checked(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE");
  auto* run = static_cast<kvm_run*>(
      mmap(nullptr, static_cast<std::size_t>(run_size), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0));
  if (run == MAP_FAILED) die("mmap of the run page");
  checked(ioctl(vcpu, KVM_SET_CPUID2, known != nullptr ? known : get_cpuid(kvm)), "KVM_SET_CPUID2");
  kvm_sregs sregs = {};
  checked(ioctl(vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
  sregs.cs.base = 0;
  sregs.cs.selector = 0;
  checked(ioctl(vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
  kvm_regs regs = {};
  regs.rflags = 2;
  checked(ioctl(vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
  checked(ioctl(vcpu, KVM_RUN, 0), "KVM_RUN");
  if (run->exit_reason != KVM_EXIT_IO) {
    std::fprintf(stderr, "exit reason %u instead of a byte\n", run->exit_reason);
    std::exit(1);
  }
}

int open_kvm() {
  return checked(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
}

// Each in a process of its own, so that none inherits what the one before has warmed up.
void measure_vms(std::size_t size, int rounds, const char* file, bool warm) {
  for (int i = 0; i < rounds; ++i) {
    const pid_t child = checked(fork(), "fork");
    if (child == 0) {
      int kvm = -1;
      kvm_cpuid2* cpuid = nullptr;
      if (warm) {
        kvm = open_kvm();
        cpuid = get_cpuid(kvm);
      }
      const double start = now_us();
      if (!warm) kvm = open_kvm();
      run_vm(kvm, cpuid, size, file);
      std::printf("%.1f\n", now_us() - start);
      std::fflush(stdout);
      _exit(0);
    }
    waitpid(child, nullptr, 0);
  }
}

void measure_many(std::size_t size, int count, const char* file) {
  int ran[2];
  checked(pipe(ran), "pipe");
  const double start = now_us();
  for (int i = 0; i < count; ++i) {
    if (checked(fork(), "fork") != 0) continue;
    run_vm(open_kvm(), nullptr, size, file);
    checked(static_cast<int>(write(ran[1], "!", 1)), "write");
    pause();  // a clone stays: closing VMs is not part of the figure
    _exit(0);
  }
  for (int i = 0; i < count; ++i) {
    char byte = 0;
    checked(static_cast<int>(read(ran[0], &byte, 1)), "read");
  }
  std::printf("%.1f\n", now_us() - start);
  std::fflush(stdout);
  signal(SIGTERM, SIG_IGN);
  kill(0, SIGTERM);  // a process group of our own: see main
  while (wait(nullptr) > 0) {
  }
}

void report_byte() {
  checked(static_cast<int>(write(kReportFd, "!", 1)), "write");
}

void echo() {
  char request[4096];
  char answer[512];  // about what vm.info answers
  std::memset(answer, 'x', sizeof answer);
  while (read(kReportFd, request, sizeof request) > 0) {
    checked(static_cast<int>(write(kReportFd, answer, sizeof answer)), "write");
  }
}

void write_file(std::size_t mib, const char* path) {
  constexpr std::size_t kBlock = std::size_t{1} << 20;
  auto* block = static_cast<std::uint64_t*>(std::malloc(kBlock));
  for (std::size_t i = 0; i < kBlock / sizeof *block; ++i) block[i] = i * 0x9E3779B97F4A7C15U;
  const double start = now_us();
  const int fd = checked(open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600), path);
  for (std::size_t i = 0; i < mib; ++i) {
    if (write(fd, block, kBlock) != static_cast<ssize_t>(kBlock)) die("write");
  }
  checked(fsync(fd), "fsync");
  std::printf("%.1f\n", now_us() - start);
}

int usage() {
  std::fprintf(stderr, "usage: see the head of tests/bench/floor.cpp\n");
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  const auto is = [&](const char* name, int arguments) {
    return argc >= 2 + arguments && std::strcmp(argv[1], name) == 0;
  };
  const auto number = [&](int i) { return std::strtoul(argv[i], nullptr, 10); };
  const char* file = argc > 4 ? argv[4] : nullptr;
  if (is("byte", 0)) {
    report_byte();
  } else if (is("echo", 0)) {
    echo();
  } else if (is("vm", 2) || is("warm", 2)) {
    measure_vms(number(2) << 20, static_cast<int>(number(3)), file, is("warm", 2));
  } else if (is("many", 3)) {
    setpgid(0, 0);
    measure_many(number(2) << 20, static_cast<int>(number(3)), file);
  } else if (is("vmbyte", 2)) {
    run_vm(open_kvm(), nullptr, number(2) << 20, argv[3]);
    report_byte();
  } else if (is("write", 2)) {
    write_file(number(2), argv[3]);
  } else {
    return usage();
  }
  return 0;
}
