#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace vmmd::api {

/// The product of all four is max_vcpus.
struct CpuTopology {
  unsigned threads_per_core = 1;
  unsigned cores_per_die = 1;
  unsigned dies_per_package = 1;
  unsigned packages = 1;

  bool operator==(const CpuTopology&) const = default;
};

/// The vCPU's thread runs on these host CPUs only.
struct CpuAffinity {
  unsigned vcpu = 0;
  std::vector<unsigned> host_cpus;

  bool operator==(const CpuAffinity&) const = default;
};

struct CpuFeatures {
  bool amx = false;

  bool operator==(const CpuFeatures&) const = default;
};

/// Which guest threads may share a host core (prctl PR_SCHED_CORE).
enum class CoreSchedulingMode : std::uint8_t { Vm, Vcpu, Off };

struct CpusConfig {
  unsigned boot_vcpus = 1;
  unsigned max_vcpus = 1;
  std::optional<CpuTopology> topology;
  bool kvm_hyperv = false;
  unsigned max_phys_bits = 46;
  std::vector<CpuAffinity> affinity;
  CpuFeatures features;
  bool nested = true;
  CoreSchedulingMode core_scheduling = CoreSchedulingMode::Vm;
  std::string profile = "Host";

  bool operator==(const CpusConfig&) const = default;
};

}  // namespace vmmd::api
