#pragma once

// Placeholder until the full schema lands.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace vmmd::api {

struct CpuTopology {
  unsigned threads_per_core = 1;
  unsigned cores_per_die = 1;
  unsigned dies_per_package = 1;
  unsigned packages = 1;
};

struct CpuAffinity {
  unsigned vcpu = 0;
  std::vector<unsigned> host_cpus;
};

struct CpusConfig {
  unsigned boot_vcpus = 1;
  unsigned max_vcpus = 1;
  std::optional<CpuTopology> topology;
  unsigned max_phys_bits = 46;
  std::vector<CpuAffinity> affinity;
};

struct MemoryConfig {
  std::uint64_t size = 512ULL << 20;  // bytes
  bool mergeable = false;
  bool shared = false;
  bool hugepages = false;
  std::optional<std::uint64_t> hugepage_size;  // bytes
  bool prefault = false;
  bool thp = true;
  bool reserve = false;
  std::optional<std::string> file;  // ours: RAM lives in this file
};

struct PayloadConfig {
  std::optional<std::string> kernel;
  std::optional<std::string> cmdline;
  std::optional<std::string> initramfs;
};

enum class ConsoleMode : std::uint8_t { Off, Pty, Tty, File, Socket, Null };

struct SerialConfig {
  ConsoleMode mode = ConsoleMode::Null;
  std::optional<std::string> file;
  std::optional<std::string> socket;
};

struct DebugConsoleConfig {
  ConsoleMode mode = ConsoleMode::Off;
  std::optional<std::string> file;
  std::uint16_t iobase = 0xe9;
};

struct VmConfig {
  CpusConfig cpus;
  MemoryConfig memory;
  PayloadConfig payload;
  SerialConfig serial;
  DebugConsoleConfig debug_console;
};

}  // namespace vmmd::api
