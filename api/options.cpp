#include "api/options.h"

#include <array>
#include <charconv>
#include <limits>
#include <system_error>
#include <utility>

#include "api/config_enums.h"
#include "api/device_option.h"
#include "api/option_text.h"
#include "api/request_enums.h"
#include "base/printable.h"

namespace vmmd::api {

namespace {

constexpr std::size_t kMaxPath = 4095;  // bytes, PATH_MAX without its NUL

Result<CpuTopology> parse_topology(std::string_view text) {
  VMMD_ASSIGN(const auto pieces, split_outside_brackets(text, ':'));
  std::array<unsigned, 4> numbers{};
  if (pieces.size() != numbers.size()) {
    return fail(ErrorCode::BadRequest,
                "\"{}\" is not threads_per_core:cores_per_die:dies_per_package:packages", text);
  }
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    VMMD_ASSIGN(const auto number, parse_number(pieces[i], 1, 255));
    numbers[i] = static_cast<unsigned>(number);
  }
  return CpuTopology{numbers[0], numbers[1], numbers[2], numbers[3]};
}

/// `[net1@[3,4],net2@[5]]`
Result<std::vector<NetFds>> parse_net_fds(std::string_view text) {
  VMMD_ASSIGN(const auto pieces, split_list(text));
  std::vector<NetFds> nets;
  for (const std::string_view piece : pieces) {
    const auto at = piece.find('@');
    if (at == std::string_view::npos || at == 0)
      return fail(ErrorCode::BadRequest, "\"{}\" is not ID@[FD,...]", piece);
    NetFds& net = nets.emplace_back(NetFds{std::string(piece.substr(0, at)), {}});
    VMMD_ASSIGN(net.fds, parse_descriptors(piece.substr(at + 1)));
  }
  return nets;
}

/// The mode words and `file=`, `socket=` of consoles; exactly one of them.
template <class Console>
Status read_mode(const OptionText& options, std::string_view option, Console& out) {
  static constexpr std::array<std::pair<std::string_view, ConsoleMode>, 6> kModes = {
      {{"off", ConsoleMode::Off},
       {"null", ConsoleMode::Null},
       {"tty", ConsoleMode::Tty},
       {"pty", ConsoleMode::Pty},
       {"file", ConsoleMode::File},
       {"socket", ConsoleMode::Socket}}};
  unsigned given = 0;
  for (const auto& [word, mode] : kModes) {
    if (!options.has(word)) continue;
    ++given;
    out.mode = mode;
  }
  if (given != 1) {
    return fail(ErrorCode::BadRequest, "{} needs one of off, null, tty, pty and file=PATH (or socket=PATH)",
                option);
  }
  options.read_string("file", out.file);
  if constexpr (requires { out.socket; }) options.read_string("socket", out.socket);
  return {};
}

}  // namespace

Result<CpusConfig> parse_cpus_option(std::string_view text) {
  VMMD_ASSIGN(const auto options,
              OptionText::parse("--cpus", text,
                                {"boot", "max", "topology", "kvm_hyperv", "max_phys_bits", "affinity",
                                 "features", "nested", "core_scheduling", "profile"}));
  CpusConfig cpus;
  VMMD_TRY(options.read_number("boot", cpus.boot_vcpus, 1, 255));
  cpus.max_vcpus = cpus.boot_vcpus;
  VMMD_TRY(options.read_number("max", cpus.max_vcpus, 1, 255));
  if (!options.has("boot")) cpus.boot_vcpus = cpus.max_vcpus;
  if (const auto value = options.value("topology")) {
    auto topology = parse_topology(*value);
    if (!topology) return options.blame("topology", std::move(topology).error());
    cpus.topology = *topology;
  }
  if (const auto value = options.value("affinity")) {
    auto affinity = parse_affinity_list(*value, 254, "VCPU");
    if (!affinity) return options.blame("affinity", std::move(affinity).error());
    for (auto& [vcpu, host_cpus] : *affinity) cpus.affinity.push_back({vcpu, std::move(host_cpus)});
  }
  if (const auto value = options.value("features")) {
    auto features = split_list(*value);
    if (!features) return options.blame("features", std::move(features).error());
    for (const std::string_view feature : *features) {
      if (feature != "amx")
        return fail(ErrorCode::BadRequest, "--cpus features=: \"{}\" is not amx", feature);
      cpus.features.amx = true;
    }
  }
  if (const auto value = options.value("profile")) {
    cpus.profile = equal_ignoring_case(*value, "host") ? "Host" : std::string(*value);
  }
  VMMD_TRY(options.read_toggle("kvm_hyperv", cpus.kvm_hyperv));
  VMMD_TRY(options.read_number("max_phys_bits", cpus.max_phys_bits, 0, 255));
  VMMD_TRY(options.read_toggle("nested", cpus.nested));
  VMMD_TRY(options.read_name("core_scheduling", cpus.core_scheduling));
  return cpus;
}

Result<MemoryConfig> parse_memory_option(std::string_view text) {
  VMMD_ASSIGN(const auto options, OptionText::parse("--memory", text,
                                                    {"size", "hotplug_size", "hotplugged_size",
                                                     "hotplug_method", "mergeable", "shared", "hugepages",
                                                     "hugepage_size", "prefault", "reserve", "thp", "file"}));
  MemoryConfig memory;
  VMMD_TRY(options.read_size("size", memory.size));
  VMMD_TRY(options.read_size("hotplug_size", memory.hotplug_size));
  VMMD_TRY(options.read_size("hotplugged_size", memory.hotplugged_size));
  VMMD_TRY(options.read_name("hotplug_method", memory.hotplug_method));
  VMMD_TRY(options.read_toggle("mergeable", memory.mergeable));
  VMMD_TRY(options.read_toggle("shared", memory.shared));
  VMMD_TRY(options.read_toggle("hugepages", memory.hugepages));
  VMMD_TRY(options.read_size("hugepage_size", memory.hugepage_size));
  VMMD_TRY(options.read_toggle("prefault", memory.prefault));
  VMMD_TRY(options.read_toggle("reserve", memory.reserve));
  VMMD_TRY(options.read_toggle("thp", memory.thp));
  options.read_string("file", memory.file);
  return memory;
}

Result<SerialConfig> parse_serial_option(std::string_view text) {
  VMMD_ASSIGN(const auto options,
              OptionText::parse("--serial", text, {"file", "socket"}, {"off", "null", "tty", "pty"}));
  SerialConfig serial;
  VMMD_TRY(read_mode(options, "--serial", serial));
  return serial;
}

Result<ConsoleConfig> parse_console_option(std::string_view text) {
  VMMD_ASSIGN(const auto options, OptionText::parse("--console", text, {"file", "socket", "iommu", "id"},
                                                    {"off", "null", "tty", "pty"}));
  ConsoleConfig console;
  VMMD_TRY(read_mode(options, "--console", console));
  VMMD_TRY(options.read_toggle("iommu", console.pci.iommu));
  options.read_string("id", console.pci.id);
  return console;
}

Result<DebugConsoleConfig> parse_debug_console_option(std::string_view text) {
  VMMD_ASSIGN(const auto options,
              OptionText::parse("--debug-console", text, {"file", "iobase"}, {"off", "null", "tty", "pty"}));
  DebugConsoleConfig console;
  VMMD_TRY(read_mode(options, "--debug-console", console));
  unsigned iobase = console.iobase;
  VMMD_TRY(options.read_number("iobase", iobase, 0, std::numeric_limits<std::uint16_t>::max()));
  console.iobase = static_cast<std::uint16_t>(iobase);
  return console;
}

Result<PlatformConfig> parse_platform_option(std::string_view text) {
  VMMD_ASSIGN(const auto options, OptionText::parse("--platform", text, {"pc"}));
  PlatformConfig platform;
  VMMD_TRY(options.read_toggle("pc", platform.pc));
  return platform;
}

Result<PmemConfig> parse_pmem_option(std::string_view text) {
  VMMD_ASSIGN(const auto options, OptionText::parse("--pmem", text,
                                                    {"file", "size", "discard_writes", "id", "iommu",
                                                     "pci_segment", "pci_device_id"}));
  PmemConfig pmem;
  pmem.file = options.value("file").value_or("");
  if (pmem.file.empty()) return fail(ErrorCode::BadRequest, "--pmem needs file=PATH");
  VMMD_TRY(options.read_size("size", pmem.size));
  VMMD_TRY(options.read_toggle("discard_writes", pmem.discard_writes));
  VMMD_TRY(read_pci(options, pmem.pci));
  return pmem;
}

Result<VsockConfig> parse_vsock_option(std::string_view text) {
  VMMD_ASSIGN(
      const auto options,
      OptionText::parse("--vsock", text, {"cid", "socket", "id", "iommu", "pci_segment", "pci_device_id"}));
  VsockConfig vsock;
  vsock.socket = options.value("socket").value_or("");
  if (vsock.socket.empty() || !options.has("cid")) {
    return fail(ErrorCode::BadRequest, "--vsock needs cid=N, the guest's address, and socket=PATH");
  }
  VMMD_TRY(options.read_number("cid", vsock.cid, 3, 0xFFFF'FFFE));
  VMMD_TRY(read_pci(options, vsock.pci));
  return vsock;
}

Result<RngConfig> parse_rng_option(std::string_view text) {
  VMMD_ASSIGN(const auto options,
              OptionText::parse("--rng", text, {"src", "id", "iommu", "pci_segment", "pci_device_id"}));
  RngConfig rng;
  rng.src = options.value("src").value_or(rng.src);
  if (rng.src.empty()) return fail(ErrorCode::BadRequest, "--rng src= needs a path");
  VMMD_TRY(read_pci(options, rng.pci));
  return rng;
}

Result<BalloonConfig> parse_balloon_option(std::string_view text) {
  VMMD_ASSIGN(const auto options, OptionText::parse("--balloon", text,
                                                    {"size", "deflate_on_oom", "free_page_reporting", "id",
                                                     "iommu", "pci_segment", "pci_device_id"}));
  if (!options.has("size")) return fail(ErrorCode::BadRequest, "--balloon needs size=SIZE, which may be 0");
  BalloonConfig balloon;
  VMMD_TRY(options.read_size("size", balloon.size));
  VMMD_TRY(options.read_toggle("deflate_on_oom", balloon.deflate_on_oom));
  VMMD_TRY(options.read_toggle("free_page_reporting", balloon.free_page_reporting));
  VMMD_TRY(read_pci(options, balloon.pci));
  return balloon;
}

Result<RestoreRequest> parse_restore_option(std::string_view text) {
  VMMD_ASSIGN(const auto options,
              OptionText::parse("--restore", text,
                                {"source_url", "memory_restore_mode", "prefault", "resume", "verify",
                                 "cpu_check", "identity", "clock", "memory_size", "vcpus", "net_fds",
                                 "vfio_fds", "iommufd_fd", "zone_updates"}));
  RestoreRequest request;
  const auto url = options.value("source_url");
  if (!url) return fail(ErrorCode::BadRequest, "--restore needs source_url=file:///DIRECTORY");
  auto source = directory_from_user(*url);
  if (!source) return options.blame("source_url", std::move(source).error());
  if (auto path = path_from_file_url(*source); !path)
    return options.blame("source_url", std::move(path).error());
  request.source_url = std::move(*source);
  if (const auto value = options.value("memory_restore_mode")) {
    auto mode = memory_mode_from_name(*value);
    if (!mode) return options.blame("memory_restore_mode", std::move(mode).error());
    request.memory_mode = *mode;
  }
  VMMD_TRY(options.read_toggle("prefault", request.prefault));
  VMMD_TRY(options.read_toggle("resume", request.resume));
  VMMD_TRY(options.read_name("verify", request.verify));
  VMMD_TRY(options.read_name("cpu_check", request.cpu_check));
  VMMD_TRY(options.read_name("identity", request.identity));
  VMMD_TRY(options.read_name("clock", request.clock));
  VMMD_TRY(options.read_size("memory_size", request.memory_size));
  if (options.has("vcpus")) VMMD_TRY(options.read_number("vcpus", request.vcpus.emplace(), 1, 255));
  if (const auto value = options.value("net_fds")) {
    auto nets = parse_net_fds(*value);
    if (!nets) return options.blame("net_fds", std::move(nets).error());
    request.net_fds = std::move(*nets);
  }
  for (const std::string_view key : {"vfio_fds", "iommufd_fd", "zone_updates"}) {
    if (options.has(key)) return fail(ErrorCode::NotSupported, "--restore {}=: not built yet", key);
  }
  return request;
}

Result<RestoreRequest::MemoryMode> memory_mode_from_name(std::string_view name) {
  for (const auto& [known, mode] : enum_names(RestoreRequest::MemoryMode{})) {
    if (known == name) return mode;
  }
  if (name == "OnDemand" || name == "ondemand") {
    return fail(ErrorCode::NotSupported,
                "OnDemand is not built; CopyOnWrite (the default) restores without copying, too");
  }
  return fail(ErrorCode::BadRequest, "\"{}\" is none of cow (CopyOnWrite), copy, shared", name.substr(0, 64));
}

Result<std::uint64_t> parse_size(std::string_view text) {
  static constexpr std::string_view kSuffixes = "KMGT";
  unsigned shift = 0;
  std::string_view digits = text;
  if (!text.empty()) {
    const char last = text.back();
    const auto suffix =
        kSuffixes.find(last >= 'a' && last <= 'z' ? static_cast<char>(last - 'a' + 'A') : last);
    if (suffix != std::string_view::npos) {
      shift = 10 * (static_cast<unsigned>(suffix) + 1);
      digits.remove_suffix(1);
    }
  }
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (digits.empty() || end != digits.data() + digits.size() || error == std::errc::invalid_argument) {
    return fail(ErrorCode::BadRequest, "\"{}\" is not a size: write bytes, or a number with K, M, G or T",
                text);
  }
  if (error != std::errc() || number > std::numeric_limits<std::uint64_t>::max() >> shift) {
    return fail(ErrorCode::BadRequest, "the size {} does not fit 64 bits", text);
  }
  return number << shift;
}

Result<bool> parse_toggle(std::string_view text) {
  if (text == "on" || text == "true") return true;
  if (text == "off" || text == "false") return false;
  return fail(ErrorCode::BadRequest, "\"{}\" is neither on nor off", text);
}

Result<std::string> directory_from_user(std::string_view text) {
  if (text.empty()) return fail(ErrorCode::BadRequest, "the directory has no name");
  if (text.starts_with('/') || text.starts_with("file:") || text.find("://") != std::string_view::npos)
    return std::string(text);
  while (text.starts_with("./") && text.size() > 2) text.remove_prefix(2);
  std::error_code error;
  const auto absolute = std::filesystem::absolute(std::filesystem::path(text), error);
  if (error) {
    return fail_errno(ErrorCode::BadRequest, error.value(),
                      "cannot tell the working directory that \"{}\" is relative to", printable(text));
  }
  return absolute.native();
}

Result<std::filesystem::path> path_from_file_url(std::string_view url) {
  static constexpr std::string_view kScheme = "file://";
  std::string_view path = url;
  if (path.starts_with(kScheme)) path.remove_prefix(kScheme.size());
  if (!path.starts_with('/')) {
    // vmmd's working directory is seldom its client's.
    const bool relative = path.find(':') == std::string_view::npos;
    return fail(ErrorCode::BadRequest, "\"{}\" is {}: write file:///absolute/directory",
                printable(url.substr(0, 256)), relative ? "a relative path" : "not a file URL");
  }
  if (path.size() > kMaxPath || path.find('\0') != std::string_view::npos) {
    return fail(ErrorCode::BadRequest, "the path in the file URL is longer than {} bytes or has a NUL in it",
                kMaxPath);
  }
  return std::filesystem::path(path);
}

}  // namespace vmmd::api
