#include <fcntl.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "api/validate.h"

using namespace vmmd;
using namespace vmmd::api;

namespace {

namespace fs = std::filesystem;

/// A directory with a kernel in it, and the smallest configuration that uses it.
class Host {
 public:
  Host() {
    std::string name = (fs::temp_directory_path() / "vmmd-validate-XXXXXX").string();
    directory_ = ::mkdtemp(name.data());
    std::ofstream(path("vmlinux")) << "kernel";
    config.payload.kernel = path("vmlinux");
  }
  ~Host() { fs::remove_all(directory_); }
  Host(const Host&) = delete;
  Host& operator=(const Host&) = delete;

  [[nodiscard]] std::string path(const std::string& name) const { return (directory_ / name).string(); }

  /// The one message that the configuration gets, without its pointer's directory names.
  [[nodiscard]] std::string verdict(ErrorCode code = ErrorCode::BadRequest) const {
    const Status status = validate(config);
    if (status) return "fine";
    CHECK(status.error().code == code);
    std::string text = status.error().to_string();
    for (auto at = text.find(directory_.string()); at != std::string::npos;
         at = text.find(directory_.string())) {
      text.replace(at, directory_.string().size(), "DIR");
    }
    return text;
  }

  VmConfig config;

 private:
  fs::path directory_;
};

}  // namespace

TEST_CASE("a kernel is all that a configuration needs") {
  const Host host;
  CHECK(host.verdict() == "fine");
}

TEST_CASE("a VM has something to boot, one thing only") {
  Host host;
  host.config.payload.firmware = "/fw";
  CHECK(host.verdict() ==
        "/payload/firmware: a VM starts from a kernel or from firmware, not both; "
        "/payload/firmware: firmware boot is not built yet");
  host.config.payload = {};
  CHECK(host.verdict() == "/payload/kernel: missing: there is nothing to boot");
}

TEST_CASE("kernel and initramfs are regular files that can be read") {
  Host host;
  host.config.payload.initramfs = host.path("nothing");
  CHECK(host.verdict() == "/payload/initramfs: cannot open \"DIR/nothing\": No such file or directory");
  host.config.payload.initramfs.reset();
  host.config.payload.kernel = host.path("");
  CHECK(host.verdict() == "/payload/kernel: \"DIR/\" is not a regular file");
  REQUIRE(::mkfifo(host.path("fifo").c_str(), 0600) == 0);
  host.config.payload.kernel = host.path("fifo");
  CHECK(host.verdict() == "/payload/kernel: \"DIR/fifo\" is not a regular file");
  host.config.payload.kernel = "";
  CHECK(host.verdict() == "/payload/kernel: cannot open \"\": No such file or directory");
}

TEST_CASE("the command line is bounded") {
  Host host;
  host.config.payload.cmdline = std::string(65535, 'x');
  CHECK(host.verdict() == "fine");
  *host.config.payload.cmdline += 'x';
  CHECK(host.verdict() == "/payload/cmdline: 65536 bytes are more than 65535");
}

TEST_CASE("vCPU counts agree with each other and with the topology") {
  Host host;
  host.config.cpus.boot_vcpus = host.config.cpus.max_vcpus = 6;
  host.config.cpus.topology = CpuTopology{2, 3, 1, 1};
  CHECK(host.verdict() == "fine");
  host.config.cpus.topology = CpuTopology{2, 2, 1, 1};
  CHECK(host.verdict() == "/cpus/topology: 2 * 2 * 1 * 1 = 4 is not max_vcpus = 6");
  host.config.cpus.topology = CpuTopology{3, 2, 1, 1};
  CHECK(host.verdict() == "/cpus/topology/threads_per_core: 3 threads are more than 2");
  host.config.cpus.topology.reset();
  host.config.cpus.max_vcpus = 5;
  CHECK(host.verdict() == "/cpus/boot_vcpus: 6 is more than max_vcpus = 5");
}

TEST_CASE("a configuration that did not come from JSON has its vCPU count checked, too") {
  Host host;
  host.config.cpus.boot_vcpus = host.config.cpus.max_vcpus = 256;
  CHECK(host.verdict() == "/cpus/boot_vcpus: a VM has 1 to 255 vCPUs");
}

TEST_CASE("the physical address width is one that a CPU can have") {
  Host host;
  for (const unsigned bits : {36U, 52U}) {
    host.config.cpus.max_phys_bits = bits;
    CHECK(host.verdict() == "fine");
  }
  host.config.cpus.max_phys_bits = 53;
  CHECK(host.verdict() == "/cpus/max_phys_bits: 53 is not in the range 36 to 52");
}

TEST_CASE("affinity names vCPUs and host CPUs that exist") {
  Host host;
  host.config.cpus.boot_vcpus = host.config.cpus.max_vcpus = 2;
  cpu_set_t mine;
  REQUIRE(::sched_getaffinity(0, sizeof mine, &mine) == 0);
  unsigned cpu = 0;
  while (!CPU_ISSET(cpu, &mine)) ++cpu;
  host.config.cpus.affinity = {{0, {cpu}}, {1, {cpu}}};
  CHECK(host.verdict() == "fine");
  host.config.cpus.affinity = {{2, {cpu}}};
  CHECK(host.verdict() == "/cpus/affinity/0/vcpu: there is no vCPU 2 of 2");
  host.config.cpus.affinity = {{1, {cpu}}, {1, {cpu}}};
  CHECK(host.verdict() == "/cpus/affinity/1/vcpu: vCPU 1 is named twice");
  host.config.cpus.affinity = {{1, {}}};
  CHECK(host.verdict() == "/cpus/affinity/0/host_cpus: the list is empty");
  host.config.cpus.affinity = {{1, {cpu, 65535, 65534}}};
  CHECK(host.verdict().starts_with("/cpus/affinity/0/host_cpus: there is no CPU 65535: the host has "));
}

TEST_CASE("memory comes in pages and fits the address space") {
  Host host;
  host.config.memory.size = (1 << 20) + 4096;
  CHECK(host.verdict() == "fine");
  host.config.memory.size = 1 << 20;
  CHECK(host.verdict() == "/memory/size: 1048576 bytes are not more than 1048576: no guest can boot there");
  host.config.memory.size = 4097;
  CHECK(host.verdict() == "/memory/size: 4097 is not a positive multiple of 4096 bytes");
  host.config.memory.size = 0;
  CHECK(host.verdict() == "/memory/size: 0 is not a positive multiple of 4096 bytes");
  host.config.memory.size = 1ULL << 46;
  CHECK(host.verdict() == "/memory/size: 70368744177664 bytes do not fit below 2^46 (cpus.max_phys_bits)");
}

TEST_CASE("huge pages have a size that divides the memory and that the host offers") {
  Host host;
  host.config.memory.hugepage_size = 2ULL << 20;
  CHECK(host.verdict() == "/memory/hugepage_size: needs hugepages = true");
  host.config.memory.hugepages = true;
  host.config.memory.hugepage_size = 3ULL << 20;
  CHECK(host.verdict() == "/memory/hugepage_size: 3145728 is not a power of two above 4096 bytes");
  host.config.memory.hugepage_size = 1ULL << 40;
  host.config.memory.size = 1ULL << 40;
  CHECK(host.verdict() ==
        "/memory/hugepage_size: the host has no huge pages of 1099511627776 bytes: see "
        "/sys/kernel/mm/hugepages");
}

TEST_CASE("a memory file is a regular file, absent, empty or of the size of the memory") {
  Host host;
  host.config.memory.size = 2097152;
  host.config.memory.file = host.path("ram");
  CHECK(host.verdict() == "fine");
  CHECK_FALSE(fs::exists(host.path("ram")));
  std::ofstream(host.path("ram")).flush();
  CHECK(host.verdict() == "fine");
  fs::resize_file(host.path("ram"), 2097152);
  CHECK(host.verdict() == "fine");
  fs::resize_file(host.path("ram"), 4096);
  CHECK(
      host.verdict() ==
      "/memory/file: \"DIR/ram\" has 4096 bytes, the VM has 2097152 bytes of RAM: give the matching size or "
      "another file");
  host.config.memory.file = host.path("");
  CHECK(host.verdict() == "/memory/file: \"DIR/\" is not a regular file");
  host.config.memory.file = host.path("no/ram");
  CHECK(host.verdict() ==
        "/memory/file: cannot create \"DIR/no/ram\": there is no directory \"DIR/no\"; create it first");
}

TEST_CASE("a memory file excludes huge pages") {
  Host host;
  host.config.memory.file = host.path("ram");
  host.config.memory.hugepages = true;
  const std::string verdict = host.verdict();
  CHECK(verdict.starts_with("/memory/file: huge pages and a file exclude each other"));
}

TEST_CASE("consoles have the path that their mode needs, and no other") {
  Host host;
  host.config.serial = {ConsoleMode::File, std::nullopt, std::nullopt};
  CHECK(host.verdict() == "/serial/file: missing: the mode needs it");
  host.config.serial = {ConsoleMode::Socket, std::nullopt, std::nullopt};
  CHECK(host.verdict() == "/serial/socket: missing: the mode needs it");
  host.config.serial = {ConsoleMode::Null, host.path("log"), std::nullopt};
  CHECK(host.verdict() == "/serial/file: the mode has no use for it");
  host.config.serial = {ConsoleMode::File, host.path("log"), std::nullopt};
  CHECK(host.verdict() == "fine");
  host.config.serial = {ConsoleMode::Pty, "/dev/pts/0", std::nullopt};
  CHECK(host.verdict() == "fine");
  host.config.serial = {};
  host.config.debug_console.mode = ConsoleMode::Socket;
  CHECK(host.verdict() == "/debug_console/mode: this console has no socket");
}

TEST_CASE("a console's file may be a device or FIFO, but no directory") {
  Host host;
  host.config.serial = {ConsoleMode::File, "/dev/null", std::nullopt};
  host.config.debug_console = {ConsoleMode::File, "/dev/null", 0xe9};
  CHECK(host.verdict() == "fine");
  REQUIRE(::mkfifo(host.path("fifo").c_str(), 0600) == 0);
  host.config.serial.file = host.path("fifo");
  CHECK(host.verdict() == "fine");
  host.config.serial.file = host.path("");
  CHECK(host.verdict() == "/serial/file: \"DIR/\" is not a file, FIFO or character device");
  host.config.serial.file = "";
  CHECK(host.verdict() == "/serial/file: the path is empty");
}

TEST_CASE("a socket's path fits its address and nothing else is in its place") {
  Host host;
  host.config.serial = {ConsoleMode::Socket, std::nullopt, host.path("sock")};
  CHECK(host.verdict() == "fine");
  std::ofstream(host.path("sock")) << "text";
  CHECK(host.verdict() == "/serial/socket: \"DIR/sock\" is there and is not a socket");
  host.config.serial.socket = "/tmp/" + std::string(102, 's');
  CHECK(host.verdict() == "fine");
  *host.config.serial.socket += 's';
  CHECK(host.verdict() == "/serial/socket: the socket's path has 108 bytes, more than 107");
}

TEST_CASE("the terminal serves one console") {
  Host host;
  host.config.serial.mode = ConsoleMode::Tty;
  CHECK(host.verdict() == "fine");
  host.config.debug_console.mode = ConsoleMode::Tty;
  CHECK(host.verdict(ErrorCode::Conflict) ==
        "/debug_console/mode: the terminal is used by /serial/mode already");
}

TEST_CASE("a file that is written is used once, however its path is spelled") {
  Host host;
  host.config.serial = {ConsoleMode::File, host.path("log"), std::nullopt};
  host.config.debug_console = {ConsoleMode::File, host.path("./x/../log"), 0xe9};
  fs::create_directory(host.path("x"));
  CHECK(host.verdict(ErrorCode::Conflict) ==
        "/debug_console/file: \"DIR/./x/../log\" is used by /serial/file too");
  host.config.debug_console = {};
  host.config.serial.file = host.path("vmlinux");
  CHECK(host.verdict(ErrorCode::Conflict) == "/serial/file: \"DIR/vmlinux\" is used by /payload/kernel too");
}

TEST_CASE("a file that is only read may be used twice") {
  Host host;
  host.config.payload.initramfs = host.config.payload.kernel;
  CHECK(host.verdict() == "fine");
}

TEST_CASE("disks share an image only where nobody writes it") {
  Host host;
  const auto has_conflict = [&] { return validate(host.config).error().code == ErrorCode::Conflict; };
  DiskConfig disk;
  disk.path = host.path("vmlinux.img");
  std::ofstream(*disk.path) << std::string(512, 'd');
  host.config.disks = {disk, disk};
  CHECK(has_conflict());
  for (DiskConfig& d : host.config.disks) d.readonly = true;
  CHECK_FALSE(has_conflict());
  host.config.disks[0].readonly = false;
  CHECK(has_conflict());
  host.config.disks[0].overlay = "memory";
  CHECK_FALSE(has_conflict());
}

TEST_CASE("an id is there once over all kinds of devices") {
  Host host;
  host.config.net.resize(2);
  host.config.net[1].pci.id = "a";
  host.config.rng.pci.id = "a";
  const Status status = validate(host.config);
  REQUIRE_FALSE(status);
  CHECK(status.error().code == ErrorCode::Conflict);
  CHECK(status.error().messages[0] == "/rng/id: \"a\" is the id of /net/1/id already");
}

TEST_CASE("every kind of device has its id checked") {
  VmConfig config;
  config.disks.resize(1);
  config.net.resize(1);
  config.balloon.emplace();
  config.fs.resize(1);
  config.generic_vhost_user.resize(1);
  config.pmem.resize(1);
  config.devices.resize(1);
  config.user_devices.resize(1);
  config.vdpa.resize(1);
  config.vsock.emplace();
  config.rtc.emplace();
  config.ivshmem.emplace();
  PciDeviceConfig* const devices[] = {&config.disks[0].pci,        &config.net[0].pci,
                                      &config.balloon->pci,        &config.fs[0].pci,
                                      &config.pmem[0].pci,         &config.devices[0].pci,
                                      &config.user_devices[0].pci, &config.vdpa[0].pci,
                                      &config.vsock->pci,          &config.rtc->pci,
                                      &config.ivshmem->pci,        &config.rng.pci,
                                      &config.console.pci,         &config.generic_vhost_user[0].pci};
  for (PciDeviceConfig* device : devices) device->id = "__mine";
  const Status status = validate(config);
  REQUIRE_FALSE(status);
  const auto reserved = std::count_if(status.error().messages.begin(), status.error().messages.end(),
                                      [](const std::string& m) { return m.ends_with("are reserved"); });
  CHECK(reserved == static_cast<std::ptrdiff_t>(std::size(devices)));
}

TEST_CASE("a balloon is not larger than RAM") {
  Host host;
  host.config.balloon.emplace().size = host.config.memory.size;
  CHECK(host.verdict().find("/balloon") == std::string::npos);
  host.config.balloon->size += 4096;
  CHECK(host.verdict().starts_with("/balloon/size: "));
}

TEST_CASE("ids are short and plain") {
  Host host;
  for (const std::string& id : {std::string(), std::string("a/b"), std::string("ä"), std::string(65, 'a')}) {
    host.config.rng.pci.id = id;
    CHECK(host.verdict().starts_with("/rng/id: an id has 1 to 64 letters, digits and any of _ - . :"));
  }
}

TEST_CASE("what has to be mended first is told first, with the code of its kind") {
  Host host;
  host.config.pvpanic = true;
  host.config.serial = {ConsoleMode::File, host.path("vmlinux"), std::nullopt};
  host.config.memory.size = 1;
  Status status = validate(host.config);
  REQUIRE_FALSE(status);
  CHECK(status.error().code == ErrorCode::BadRequest);
  REQUIRE(status.error().messages.size() == 3);
  CHECK(status.error().messages[0].starts_with("/memory/size: "));
  CHECK(status.error().messages[1].starts_with("/serial/file: "));
  CHECK(status.error().messages[2].starts_with("/pvpanic: "));
  host.config.memory.size = 2 << 20;
  status = validate(host.config);
  CHECK(status.error().code == ErrorCode::Conflict);
}
