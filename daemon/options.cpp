#include "daemon/options.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <CLI/CLI.hpp>

#include "api/edit_distance.h"
#include "api/json_argument.h"
#include "api/options.h"
#include "base/version.h"

namespace vmmd {

namespace {

constexpr const char* kFooter = R"(
Examples:
  vmmd --api-socket /run/vm.sock
  vmmd --api-socket /run/vm.sock --kernel vmlinux --cmdline console=ttyS0 --serial tty --memory size=256M
  vmmd --api-socket /run/clone.sock --restore source_url=file:///snapshots/one,resume=true)";

// The texts of VM options as given; empty = not given.
struct VmTexts {
  std::string cpus, memory, kernel, initramfs, cmdline, serial, console, debug_console, platform, vsock,
      balloon, rng;
  std::vector<std::string> disks, rate_limit_groups, nets, pmems;
  bool watchdog = false;
};

Result<api::VmConfig> vm_config(const VmTexts& texts) {
  api::VmConfig config;
  if (!texts.cpus.empty()) {
    VMMD_ASSIGN(config.cpus, api::parse_cpus_option(texts.cpus));
  }
  if (!texts.memory.empty()) {
    VMMD_ASSIGN(config.memory, api::parse_memory_option(texts.memory));
  }
  if (!texts.kernel.empty()) config.payload.kernel = texts.kernel;
  if (!texts.initramfs.empty()) config.payload.initramfs = texts.initramfs;
  if (!texts.cmdline.empty()) config.payload.cmdline = texts.cmdline;
  if (!texts.serial.empty()) {
    VMMD_ASSIGN(config.serial, api::parse_serial_option(texts.serial));
  }
  if (!texts.console.empty()) {
    VMMD_ASSIGN(config.console, api::parse_console_option(texts.console));
  }
  if (!texts.debug_console.empty()) {
    VMMD_ASSIGN(config.debug_console, api::parse_debug_console_option(texts.debug_console));
  }
  if (!texts.platform.empty()) {
    VMMD_ASSIGN(config.platform, api::parse_platform_option(texts.platform));
  }
  for (const std::string& text : texts.rate_limit_groups) {
    VMMD_ASSIGN(config.rate_limit_groups.emplace_back(), api::parse_rate_limit_group_option(text));
  }
  for (const std::string& text : texts.disks) {
    VMMD_ASSIGN(config.disks.emplace_back(), api::parse_disk_option(text));
  }
  if (!texts.rng.empty()) {
    VMMD_ASSIGN(config.rng, api::parse_rng_option(texts.rng));
  }
  if (!texts.balloon.empty()) {
    VMMD_ASSIGN(config.balloon, api::parse_balloon_option(texts.balloon));
  }
  config.watchdog = texts.watchdog;
  for (const std::string& text : texts.nets) {
    VMMD_ASSIGN(config.net.emplace_back(), api::parse_net_option(text));
  }
  for (const std::string& text : texts.pmems) {
    VMMD_ASSIGN(config.pmem.emplace_back(), api::parse_pmem_option(text));
  }
  if (!texts.vsock.empty()) {
    VMMD_ASSIGN(config.vsock, api::parse_vsock_option(texts.vsock));
  }
  return config;
}

/// Cloud Hypervisor's options for what is not built: known by name, so that who moves over is told.
constexpr auto kUnbuilt = std::to_array<std::string_view>(
    {"--device", "--firmware", "--fs", "--fw-cfg-config", "--gdb", "--generic-vhost-user", "--igvm",
     "--ivshmem", "--landlock", "--landlock-rules", "--memory-zone", "--numa", "--pci-segment", "--pvpanic",
     "--rtc", "--seccomp", "--tpm", "--user-device", "--vdpa"});

/// For the first option that there is not: which one may be meant.
std::string suggestion(const CLI::App& app, int argc, char** argv) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) names.push_back(option->get_name());
  for (const CLI::App* group : app.get_subcommands(nullptr)) {
    for (const CLI::Option* option : group->get_options()) names.push_back(option->get_name());
  }
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = std::string_view(argv[i]).substr(0, std::string_view(argv[i]).find('='));
    if (!word.starts_with("--") || std::find(names.begin(), names.end(), word) != names.end()) continue;
    if (std::find(kUnbuilt.begin(), kUnbuilt.end(), word) != kUnbuilt.end()) return "; it is not built yet";
    const std::string_view near = api::closest(word, {names.begin(), names.end()});
    if (!near.empty()) return "; did you mean " + std::string(near) + "?";
  }
  return "; see vmmd --help";
}

ParsedOptions refuse(const std::string& message) {
  std::fprintf(stderr, "vmmd: %s\n", message.c_str());
  return {{}, 2};
}

}  // namespace

ParsedOptions parse_options(int argc, char** argv) {
  CLI::App app{"vmmd: a virtual machine monitor for Linux/KVM with snapshots you can trust", "vmmd"};
  app.footer(kFooter);
  DaemonOptions options;
  VmTexts texts;
  std::string restore;
  app.add_option("--api-socket", options.api_socket,
                 "Serve the HTTP API on this Unix socket: PATH, path=PATH or fd=N");
  app.add_option("--event-monitor", options.event_monitor,
                 "Write events as lines of JSON: PATH, path=PATH or fd=N");
  app.add_option("--log-file", options.log_file, "Log to this file instead of standard error");
  app.add_flag("-v", options.verbosity, "Log more; twice for even more");
  app.add_flag("--no-shutdown", options.no_shutdown, "Stay when the guest powers off");
  app.set_version_flag("-V,--version", std::string(kBuild));

  auto* vm = app.add_option_group("VM options", "Create and boot a VM at once");
  vm->add_option("--kernel", texts.kernel, "Kernel: PVH ELF (vmlinux) or bzImage");
  vm->add_option("--initramfs", texts.initramfs, "Initial RAM filesystem");
  vm->add_option("--cmdline", texts.cmdline, "Kernel command line");
  vm->add_option("--cpus", texts.cpus, "boot=N,max=N,topology=T:C:D:P,affinity=[...],max_phys_bits=N");
  vm->add_option("--memory", texts.memory, "size=512M,shared=on,hugepages=on,file=PATH,prefault=on,...");
  vm->add_option("--serial", texts.serial, "off|null|tty|pty|file=PATH|socket=PATH");
  vm->add_option("--console", texts.console, "off|null|tty|pty|file=PATH|socket=PATH");
  vm->add_option("--debug-console", texts.debug_console, "off|null|tty|pty|file=PATH,iobase=0xe9");
  vm->add_option("--platform", texts.platform, "pc=on: a PC's old devices (PIC, PIT, keyboard, ...)");
  vm->add_option("--disk", texts.disks,
                 "path=FILE,readonly=on,serial=,num_queues=,overlay=memory|FILE,id=,...");
  vm->add_option("--rate-limit-group", texts.rate_limit_groups,
                 "id=NAME,bw_size=,bw_refill_time=,ops_size=,ops_refill_time=,...: limits that disks share");
  vm->add_option("--net", texts.nets, "tap=NAME|fd=[N,...]|passt=SOCKET,mac=,mtu=,num_queues=,ip=,mask=,...");
  vm->add_option("--pmem", texts.pmems, "file=PATH,size=64M,discard_writes=on: a file as the guest's memory");
  vm->add_option("--vsock", texts.vsock, "cid=3,socket=PATH: streams between host and guest");
  vm->add_option("--rng", texts.rng, "src=PATH: where the guest's entropy comes from");
  vm->add_option("--balloon", texts.balloon, "size=SIZE,deflate_on_oom=on,free_page_reporting=on");
  vm->add_flag("--watchdog", texts.watchdog, "Reset a guest whose virtio watchdog driver stops pinging");
  app.add_option("--restore", restore,
                 "Restore a snapshot: source_url=file:///DIR,memory_restore_mode=cow|copy,"
                 "resume=true,...");
  std::string overrides;
  app.add_option("--overrides", overrides, "With --restore: changes to the configuration, a file, - or JSON");
  auto* openvmm = app.add_option_group("OpenVMM's names");
  std::string restore_snapshot;
  std::string backing_file;
  bool paused = false;
  openvmm->add_option("--restore-snapshot", restore_snapshot, "As --restore source_url=DIR,resume=true");
  openvmm->add_option("--memory-backing-file", backing_file, "As --memory file=PATH");
  openvmm->add_flag("-P,--paused", paused, "Do not let the guest run yet (with --restore-snapshot)");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return {{}, app.exit(error)};  // --help, --version
    return refuse(error.what() + suggestion(app, argc, argv));
  }
  if (!restore_snapshot.empty()) {
    if (!restore.empty()) return refuse("--restore and --restore-snapshot exclude each other");
    restore = "source_url=\"file://" + std::filesystem::absolute(restore_snapshot).native() +
              "\",resume=" + (paused ? "false" : "true");
  }
  const bool wants_vm = vm->count_all() > 0;
  if (wants_vm && restore.empty()) {
    auto config = vm_config(texts);
    if (!config) return refuse(config.error().to_string());
    options.vm = std::move(*config);
    if (!backing_file.empty()) options.vm->memory.file = backing_file;
  } else if (!backing_file.empty()) {
    return refuse("--memory-backing-file needs a VM to boot: give --kernel");
  }
  if (paused && restore_snapshot.empty())
    return refuse("--paused needs --restore-snapshot; a new VM waits between vm.create and vm.boot");
  if (restore.empty() && !overrides.empty()) return refuse("--overrides needs --restore");
  if (!restore.empty()) {
    const bool sized =
        !restore_snapshot.empty();  // there, --memory and --cpus say what the snapshot must have
    if (vm->count_all() > (sized ? vm->count("--memory") + vm->count("--cpus") : 0))
      return refuse("the VM comes from the snapshot: options of a new one make no sense beside it");
    auto request = api::parse_restore_option(restore);
    if (!request) return refuse(request.error().to_string());
    if (wants_vm) {
      auto wanted = vm_config(texts);
      if (!wanted) return refuse(wanted.error().to_string());
      if (!texts.memory.empty()) request->memory_size = wanted->memory.size;
      if (!texts.cpus.empty()) request->vcpus = wanted->cpus.boot_vcpus;
    }
    if (!overrides.empty()) {
      auto text = api::read_json_argument(overrides);
      if (!text) return refuse("--overrides: " + text.error().to_string());
      request->overrides = std::move(*text);
    }
    options.restore = std::move(*request);
  }
  if (options.api_socket.empty() && !options.vm && !options.restore) {
    return refuse("nothing to do: give --api-socket, --kernel or --restore (see --help)");
  }
  return {std::move(options), std::nullopt};
}

}  // namespace vmmd
