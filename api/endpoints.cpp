#include "api/endpoints.h"

#include <array>

namespace vmmd::api {

namespace {

constexpr Endpoint command(std::string_view path, Command command, std::string_view what) {
  return {path, Verb::Put, Action::RunCommand, command, what};
}

constexpr Endpoint missing(std::string_view path, std::string_view what) {
  return {path, Verb::Put, Action::Missing, Command::Boot, what};
}

constexpr std::array kEndpoints = {
    Endpoint{"vmm.ping", Verb::Get, Action::Ping, {}, "version and process id of the daemon"},
    Endpoint{"vm.info", Verb::Get, Action::Info, {}, "state and full configuration of the VM"},
    Endpoint{"vm.counters", Verb::Get, Action::DeviceCounters, {}, "counters of the devices"},
    Endpoint{"events", Verb::Get, Action::Events, {}, "stream of events (Server-Sent Events)"},
    Endpoint{"vm.create", Verb::Put, Action::Create, {}, "define the VM from a VmConfig"},
    command("vm.boot", Command::Boot, "start the VM that was created"),
    command("vm.pause", Command::Pause, "stop the vCPUs"),
    command("vm.resume", Command::Resume, "let the vCPUs go on"),
    command("vm.shutdown", Command::Shutdown, "stop the VM and keep its configuration"),
    command("vm.reboot", Command::Reboot, "reset the VM"),
    command("vm.delete", Command::Delete, "forget the VM"),
    command("vm.power-button", Command::PowerButton, "press the power button"),
    command("vm.nmi", Command::Nmi, "send an NMI to the guest"),
    command("vmm.shutdown", Command::VmmShutdown, "end the VM and the daemon"),
    Endpoint{"vm.snapshot", Verb::Put, Action::Snapshot, {}, "write a snapshot of the VM"},
    Endpoint{"vm.restore", Verb::Put, Action::Restore, {}, "make the VM from a snapshot"},
    Endpoint{"vm.cancel", Verb::Put, Action::Cancel, {}, "stop a job of vm.info"},
    Endpoint{"vm.resize", Verb::Put, Action::Resize, {}, "set the size of the balloon"},
    Endpoint{"vm.resize-disk", Verb::Put, Action::ResizeDisk, {}, "make a disk larger, or tell that it is"},
    missing("vm.resize-zone", "memory zones"),
    missing("vm.add-device", "VFIO passthrough"),
    missing("vm.add-user-device", "vfio-user devices"),
    missing("vm.remove-device", "hot-unplug of devices"),
    missing("vm.add-disk", "hot-plug of disks"),
    missing("vm.add-fs", "virtio-fs"),
    missing("vm.add-generic-vhost-user", "vhost-user devices"),
    missing("vm.add-pmem", "hot-plug of virtio-pmem"),
    missing("vm.add-net", "hot-plug of network devices"),
    missing("vm.add-vsock", "hot-plug of virtio-vsock"),
    missing("vm.add-vdpa", "vDPA"),
    missing("vm.coredump", "core dumps of the guest"),
    missing("vm.receive-migration", "live migration"),
    missing("vm.send-migration", "live migration"),
};

/// RFC 9112, 3.2.2: a server must take the absolute form too.
std::string_view without_authority(std::string_view target) {
  constexpr std::string_view kScheme = "http://";
  if (!target.starts_with(kScheme)) return target;
  const auto slash = target.find('/', kScheme.size());
  return slash == std::string_view::npos ? std::string_view("/") : target.substr(slash);
}

}  // namespace

std::string_view to_string(Verb verb) {
  return verb == Verb::Get ? "GET" : "PUT";
}

std::span<const Endpoint> endpoints() {
  return kEndpoints;
}

const Endpoint* find_endpoint(std::string_view target) {
  target = without_authority(target);
  target = target.substr(0, target.find_first_of("?#"));
  if (!target.starts_with(kApiRoot)) return nullptr;
  target.remove_prefix(kApiRoot.size());
  for (const Endpoint& endpoint : kEndpoints) {
    if (endpoint.path == target) return &endpoint;
  }
  return nullptr;
}

std::string_view query_value(std::string_view target, std::string_view name) {
  target = target.substr(0, target.find('#'));
  auto start = target.find('?');
  while (start != std::string_view::npos) {
    target.remove_prefix(start + 1);
    const std::string_view field = target.substr(0, target.find('&'));
    if (field.size() > name.size() && field.starts_with(name) && field[name.size()] == '=') {
      return field.substr(name.size() + 1);
    }
    start = target.find('&');
  }
  return {};
}

}  // namespace vmmd::api
