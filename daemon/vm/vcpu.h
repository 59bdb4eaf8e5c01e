#pragma once

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "daemon/kvm/vcpu_fd.h"
#include "daemon/vm/ext_int.h"
#include "daemon/vm/vcpu_exit.h"
#include "devices/bus.h"
#include "devices/chipset/ioapic.h"
#include "devices/guest_memory.h"
#include "devices/state_unit.h"

namespace vmmd::vm {

/// Told when a vCPU cannot go on. Called on the vCPU's thread: implementations only queue.
class VcpuListener {
 public:
  virtual ~VcpuListener() = default;
  virtual void on_vcpu_stopped(VcpuStop stop) = 0;
};

/// One vCPU and the thread that runs it: KVM_RUN, dispatch to the buses, again.
///
/// A new vCPU is parked. park() asks it to leave KVM_RUN (immediate_exit and a signal, so that no window is
/// missed) and wait_parked() waits for that; both are separate so that many vCPUs park at once. A vCPU parks
/// only after KVM_RUN has completed the last exit (an I/O instruction whose result KVM still has to write),
/// so that its registers are whole. Park requests come from one thread at a time (the VM thread).
class Vcpu final : public devices::StateUnit {
 public:
  /// What all vCPUs of a machine share. Outlives them.
  struct Shared {
    const devices::Bus& ports;
    const devices::Bus& mmio;
    devices::Ioapic& ioapic;
    VcpuListener& listener;
    const std::atomic<bool>& power_asked;  // the guest asked to reset or to power off: run no further
    const kvm::Kvm& kvm;
    std::vector<std::uint32_t> saved_msrs;  // what to save, in the order of restoring
    /// All that KVM has as the guest's memory, above RAM too.
    std::vector<devices::GuestRegion> memory;
  };

  Vcpu(unsigned index, kvm::VcpuFd fd, const Shared& shared);
  ~Vcpu() override;  // stops the thread
  Vcpu(const Vcpu&) = delete;
  Vcpu& operator=(const Vcpu&) = delete;

  /// Starts the thread, parked. `host_cpus`: where it may run; empty = anywhere. BadRequest if it may not.
  Status start(const std::vector<unsigned>& host_cpus);
  /// This vCPU takes a PIC's interrupts. Before start(); `ext_int` outlives the vCPU.
  void connect(ExtInt& ext_int);
  /// Makes a running vCPU leave KVM_RUN and ask its ExtInt. Any thread, under the locks of the caller.
  void interrupt();

  void park();
  void wait_parked();
  void unpark();
  /// Asks the thread to end, so that many end at once; the destructor waits for it.
  void stop();

  /// While parked. A vCPU that the guest has not started takes none, as on hardware.
  Status inject_nmi() const;

  /// What the guest is told about its CPU. Kept, because KVM_GET_CPUID2 need not answer with what was set.
  Status set_cpuid(std::vector<kvm_cpuid_entry2> entries);

  /// While parked: notes the TSC, at which the guest's time stops. KVM's runs on.
  Status stop_tsc();
  /// What was noted, or what the snapshot had; nothing before either.
  [[nodiscard]] std::optional<std::uint64_t> stopped_tsc() const { return stopped_tsc_; }

  [[nodiscard]] const kvm::VcpuFd& fd() const { return fd_; }
  [[nodiscard]] unsigned index() const { return index_; }

  [[nodiscard]] std::string_view unit_name() const override { return name_; }
  [[nodiscard]] Result<devices::UnitState> save() const override;
  Status restore(const devices::UnitState& state) override;
  /// Nothing: a machine that resets gets new vCPUs.
  void reset() override {}
  [[nodiscard]] std::map<std::string, std::int64_t> counters() const override;

 private:
  enum class Wish : std::uint8_t { Park, Run, Stop };
  void thread_main();
  Status start_thread();
  void run_until_kicked();
  [[nodiscard]] std::optional<VcpuStop> dispatch();
  [[nodiscard]] std::optional<VcpuStop> settle();
  [[nodiscard]] std::optional<VcpuStop> after_waking(unsigned& in_vain) const;
  [[nodiscard]] bool is_memory(std::uint64_t address) const;
  void set_immediate_exit(bool on);
  void kick();
  [[nodiscard]] std::optional<VcpuStop> take_external_interrupt();

  const unsigned index_;
  const std::string name_;
  kvm::VcpuFd fd_;
  const Shared& shared_;
  ExtInt* ext_int_ = nullptr;
  std::vector<kvm_cpuid_entry2> cpuid_;
  std::optional<std::uint64_t> stopped_tsc_;

  mutable std::mutex mutex_;  // guards the four below; never held in KVM_RUN
  std::condition_variable changed_;
  Wish wish_ = Wish::Park;
  bool parked_ = true;
  bool stopped_ = false;  // cannot go on: stays parked
  std::atomic<std::uint64_t> exits_ = 0;
  std::thread thread_;
};

}  // namespace vmmd::vm
