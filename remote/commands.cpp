#include <algorithm>
#include <array>
#include <vector>

#include "remote/catalogue.h"
#include "remote/command.h"
#include "remote/completion.h"
#include "remote/console.h"
#include "remote/events.h"
#include "remote/jobs.h"
#include "remote/requests.h"
#include "remote/shell.h"
#include "remote/status.h"

namespace vmmd::remote {

namespace {

using Kind = Argument::Kind;
using enum api::Verb;

constexpr Argument kCreate[] = {
    {"path", Kind::Positional, "VmConfig as JSON; - or nothing for standard input", false, "FILE"},
};
constexpr Argument kSnapshot[] = {
    {"destination_url", Kind::Positional, "Directory to make, absent or empty: file:///dir, /dir or ./dir",
     true, "DIR"},
    {"--mode", Kind::Option, "How to capture memory", false, "auto|copy|link|reflink"},
    {"--pause", Kind::Flag, "Pause a running VM first"},
    {"--resume", Kind::Flag, "Resume it afterwards"},
    {"--label", Kind::Repeated, "Kept with the snapshot; may be given several times", false, "NAME=VALUE"},
};
constexpr Argument kDirectory[] = {
    {"dir", Kind::Positional, "The snapshot", true, "DIR"},
};
constexpr Argument kCheck[] = {
    {"dir", Kind::Positional, "The snapshot", true, "DIR"},
    {"--overrides", Kind::Option, "Changes to the configuration: a file, -, or JSON", false, "FILE"},
};
constexpr Argument kParent[] = {
    {"dir", Kind::Positional, "The directory in which snapshots are", true, "DIR"},
};
constexpr Argument kRestore[] = {
    {"restore_config", Kind::Positional,
     "source_url=file:///"
     "dir,memory_restore_mode=cow|copy,resume=on|off,prefault=on|off,verify=none|lazy|full,"
     "cpu_check=strict|ignore,identity=new|keep,clock=realtime|continue,memory_size=SIZE,vcpus=N,net_fds=[ID@"
     "[FD,...],...]",
     true, "CONFIG"},
    {"--overrides", Kind::Option, "Changes to the configuration: a file, -, or JSON", false, "FILE"},
};
constexpr Argument kCancel[] = {
    {"job", Kind::Positional, "The job's id, from info or events: snapshot-1", true, "JOB"},
};
constexpr Argument kConsole[] = {
    {"--escape", Kind::Option, "Key that leaves: ^] (the default), another control key, ~. or none", false,
     "KEY"},
    {"--device", Kind::Option, "Which: the serial port, or the virtio console if only that can be reached",
     false, "serial|console"},
};
constexpr Argument kInput[] = {
    {"--device", Kind::Option, "As console's", false, "serial|console"},
    {"text", Kind::Words, "What to type; Enter is added", true, "TEXT"},
};
constexpr Argument kCompletion[] = {
    {"shell", Kind::Positional, "For which shell", true, "bash|zsh|fish"},
};
constexpr Argument kEvents[] = {
    {"--since", Kind::Option, "Start after this sequence number; 0 shows all that is remembered", false, "N"},
};
constexpr Argument kWait[] = {
    {"--state", Kind::Option, "What to wait for", true, "Running|Paused|Shutdown|Created|None"},
    {"--timeout", Kind::Option, "Give up after so many seconds", false, "SECONDS"},
};

// Of ch-remote's commands that no endpoint of ours serves yet.
constexpr Argument kAnything[] = {
    {"config", Kind::Words, "As ch-remote's", false, "CONFIG"},
};
constexpr Argument kResize[] = {
    {"--cpus", Kind::Option, "Number of vCPUs (not built yet)", false, "N"},
    {"--memory", Kind::Option, "Size of RAM (not built yet)", false, "SIZE"},
    {"--balloon", Kind::Option, "Size of the balloon", false, "SIZE"},
};
constexpr Argument kResizeDisk[] = {
    {"--disk", Kind::Option, "Id of the disk", true, "ID"},
    {"--size", Kind::Option, "New size", true, "SIZE"},
};
constexpr Argument kResizeZone[] = {
    {"--id", Kind::Option, "Memory zone", false, "ID"},
    {"--size", Kind::Option, "New size", false, "SIZE"},
};

constexpr Command request(std::string_view name, api::Verb verb, std::string_view endpoint,
                          std::string_view summary, std::string_view example) {
  return {.name = name, .summary = summary, .example = example, .endpoint = endpoint, .verb = verb};
}

using Run = Status (*)(Session&, const Command&, const Arguments&);

constexpr Command local(std::string_view name, Run run, std::span<const Argument> arguments,
                        std::string_view summary, std::string_view example) {
  return {.name = name,
          .summary = summary,
          .example = example,
          .arguments = arguments,
          .run = run,
          .needs_daemon = false};
}

constexpr Command unbuilt(std::string_view name, std::string_view endpoint, std::string_view example,
                          std::span<const Argument> arguments = kAnything) {
  return {.name = name,
          .summary = "Not built yet (ch-remote's)",
          .example = example,
          .arguments = arguments,
          .endpoint = endpoint,
          .body = unbuilt_body};
}

constexpr std::array kCommands = {
    request("ping", Get, "vmm.ping", "Show the daemon's version and process id", "vmm-remote ping"),
    request("info", Get, "vm.info", "Show the VM's state and full configuration",
            "vmm-remote info | jq .state"),
    request("counters", Get, "vm.counters", "Show the devices' counters", "vmm-remote counters"),
    Command{.name = "create",
            .summary = "Define the VM from a VmConfig",
            .example = "vmm-remote create vm.json\n"
                       "echo '{\"payload\":{\"kernel\":\"/boot/vmlinux\"}}' | vmm-remote create",
            .arguments = kCreate,
            .endpoint = "vm.create",
            .body = create_body},
    request("boot", Put, "vm.boot", "Start the VM that was created", "vmm-remote boot"),
    request("pause", Put, "vm.pause", "Stop the vCPUs", "vmm-remote pause"),
    request("resume", Put, "vm.resume", "Let the vCPUs of a paused VM go on", "vmm-remote resume"),
    request("reboot", Put, "vm.reboot", "Reset the VM", "vmm-remote reboot"),
    request("power-button", Put, "vm.power-button", "Press the power button: the guest shuts down",
            "vmm-remote power-button && vmm-remote wait --state Shutdown --timeout 60"),
    request("nmi", Put, "vm.nmi", "Send an NMI to the guest", "vmm-remote nmi"),
    request("shutdown", Put, "vm.shutdown", "Stop the VM at once and keep its configuration",
            "vmm-remote shutdown"),
    request("delete", Put, "vm.delete", "Forget the VM, ending it first", "vmm-remote delete"),
    request("shutdown-vmm", Put, "vmm.shutdown", "End the VM and the daemon", "vmm-remote shutdown-vmm"),
    Command{.name = "snapshot",
            .summary = "Write a snapshot of the VM; or look after snapshots (list, info, ...)",
            .example = "vmm-remote snapshot file:///snapshots/one\n"
                       "vmm-remote snapshot --pause --resume --label app=web /snapshots/two\n"
                       "vmm-remote snapshot list /snapshots",
            .arguments = kSnapshot,
            .endpoint = "vm.snapshot",
            .body = snapshot_body,
            .run = run_snapshot,
            .check = check_snapshot},
    local("snapshot list", run_snapshot_list, kParent, "Show the snapshots in a directory",
          "vmm-remote snapshot list /snapshots"),
    local("snapshot info", run_snapshot_info, kDirectory, "Show everything that a snapshot says of itself",
          "vmm-remote snapshot info /snapshots/one"),
    local("snapshot check", run_snapshot_check, kCheck,
          "Say all that would keep it from being restored on this host",
          "vmm-remote snapshot check /snapshots/one"),
    local("snapshot verify", run_snapshot_verify, kDirectory,
          "Read all of its memory and name damaged ranges", "vmm-remote snapshot verify /snapshots/one"),
    local("snapshot delete", run_snapshot_delete, kDirectory, "Delete a snapshot, complete or torn",
          "vmm-remote snapshot delete /snapshots/one"),
    local("snapshot gc", run_snapshot_gc, kParent, "Remove what killed daemons left half written or deleted",
          "vmm-remote snapshot gc /snapshots"),
    local("snapshot digest", run_snapshot_digest, kDirectory,
          "Record the digests of its memory, where link or reflink left them out",
          "vmm-remote snapshot digest /snapshots/one"),
    local("snapshot seal", run_snapshot_seal, kDirectory, "Accept a deliberate edit of its config.json",
          "$EDITOR /snapshots/one/config.json && vmm-remote snapshot seal /snapshots/one"),
    Command{.name = "restore",
            .summary = "Make the VM from a snapshot",
            .example = "vmm-remote restore source_url=file:///snapshots/one,resume=true\n"
                       "vmm-remote restore /snapshots/one --overrides "
                       "'{\"serial\":{\"mode\":\"File\",\"file\":\"/tmp/clone.log\"}}'",
            .arguments = kRestore,
            .endpoint = "vm.restore",
            .body = restore_body,
            .run = run_restore},
    Command{.name = "cancel",
            .summary = "Stop a snapshot or restore in progress; it leaves nothing behind",
            .example = "vmm-remote cancel snapshot-1",
            .arguments = kCancel,
            .endpoint = "vm.cancel",
            .body = cancel_body},
    Command{.name = "wait",
            .summary = "Wait until the VM has a state",
            .example = "vmm-remote wait --state Running --timeout 10",
            .arguments = kWait,
            .run = run_wait,
            .check = check_wait},
    Command{.name = "events",
            .summary = "Show events as they happen, one JSON object per line",
            .example = "vmm-remote events --since 0",
            .arguments = kEvents,
            .run = run_events,
            .check = check_events},
    Command{.name = "status",
            .summary = "Show the VM in a few lines",
            .example = "vmm-remote status",
            .run = run_status},
    Command{.name = "console",
            .summary = "Attach to the guest's serial port or virtio console (pty or socket); Ctrl-] leaves",
            .example = "vmm-remote console\nvmm-remote console --device console --escape '~.'",
            .arguments = kConsole,
            .run = run_console,
            .check = check_console},
    Command{.name = "input",
            .summary = "Type a line into the guest's serial port or virtio console",
            .example = "vmm-remote input root",
            .arguments = kInput,
            .run = run_input},
    Command{.name = "shell",
            .summary = "A prompt with OpenVMM's words (pause, p, snap, ...); also: -c \"p; snap /dir\"",
            .example = "vmm-remote shell\nvmm-remote -c \"pause; save-snapshot /snapshots/one; resume\"",
            .program = run_shell},
    Command{.name = "completion",
            .summary = "Print a script that lets a shell complete these commands",
            .example = "source <(vmm-remote completion bash)",
            .arguments = kCompletion,
            .run = run_completion,
            .needs_daemon = false},
    unbuilt("add-device", "vm.add-device", "vmm-remote add-device path=/sys/bus/pci/devices/0000:01:00.0"),
    unbuilt("add-disk", "vm.add-disk", "vmm-remote add-disk path=/disk.img"),
    unbuilt("add-fs", "vm.add-fs", "vmm-remote add-fs tag=data,socket=/run/fs.sock"),
    unbuilt("add-generic-vhost-user", "vm.add-generic-vhost-user",
            "vmm-remote add-generic-vhost-user device_type=2,socket=/run/blk.sock,queue_sizes=[128]"),
    unbuilt("add-net", "vm.add-net", "vmm-remote add-net tap=tap0"),
    unbuilt("add-pmem", "vm.add-pmem", "vmm-remote add-pmem file=/pmem.img"),
    unbuilt("add-user-device", "vm.add-user-device", "vmm-remote add-user-device socket=/run/vfio.sock"),
    unbuilt("add-vdpa", "vm.add-vdpa", "vmm-remote add-vdpa path=/dev/vhost-vdpa-0"),
    unbuilt("add-vsock", "vm.add-vsock", "vmm-remote add-vsock cid=3,socket=/run/vsock.sock"),
    unbuilt("coredump", "vm.coredump", "vmm-remote coredump file:///tmp/core"),
    unbuilt("receive-migration", "vm.receive-migration",
            "vmm-remote receive-migration unix:/run/migrate.sock"),
    unbuilt("remove-device", "vm.remove-device", "vmm-remote remove-device _disk1"),
    Command{.name = "resize",
            .summary = "Set the size of the balloon",
            .example = "vmm-remote resize --balloon 256M",
            .arguments = kResize,
            .endpoint = "vm.resize",
            .body = resize_body},
    Command{.name = "resize-disk",
            .summary = "Make a disk larger, or tell the guest that it is",
            .example = "vmm-remote resize-disk --disk _disk0 --size 10G",
            .arguments = kResizeDisk,
            .endpoint = "vm.resize-disk",
            .body = resize_disk_body},
    unbuilt("resize-zone", "vm.resize-zone", "vmm-remote resize-zone --id zone0 --size 2G", kResizeZone),
    unbuilt("send-migration", "vm.send-migration", "vmm-remote send-migration unix:/run/migrate.sock"),
};

}  // namespace

std::span<const Command> commands() {
  return kCommands;
}

const Command* find_command(std::string_view name) {
  const auto* const found = std::ranges::find(kCommands, name, &Command::name);
  return found == kCommands.end() ? nullptr : found;
}

bool has_subcommands(std::string_view name) {
  return std::ranges::any_of(kCommands, [name](const Command& command) {
    return command.name.size() > name.size() && command.name.starts_with(name) &&
           command.name[name.size()] == ' ';
  });
}

std::optional<std::string> Arguments::find(std::string_view name) const {
  const auto found = values_.find(name);
  if (found == values_.end()) return std::nullopt;
  return found->second.back();
}

const std::vector<std::string>& Arguments::all(std::string_view name) const {
  static const std::vector<std::string> none;
  const auto found = values_.find(name);
  return found == values_.end() ? none : found->second;
}

}  // namespace vmmd::remote
