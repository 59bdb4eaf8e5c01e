#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "api/types.h"
#include "daemon/kvm/vm_fd.h"
#include "daemon/loop/vm_clock.h"
#include "daemon/memory/guest_ram.h"
#include "daemon/memory/ram_reclaim.h"
#include "daemon/vm/chipset.h"
#include "daemon/vm/time_unit.h"
#include "daemon/vm/vcpu.h"
#include "devices/device_events.h"
#include "devices/guest_memory.h"
#include "devices/virtio/balloon.h"

namespace vmmd::vm {

/// What a machine tells its owner, on vCPU threads and those of devices: implementations only queue.
class MachineListener : public VcpuListener, public devices::PowerSink, public devices::DeviceEvents {};

/// Passes on what the guest asks for and remembers that it asked.
class PowerLatch final : public devices::PowerSink {
 public:
  explicit PowerLatch(devices::PowerSink& sink) : sink_(sink) {}
  void request_reset() override {
    asked_ = true;
    sink_.request_reset();
  }
  void request_shutdown() override {
    asked_ = true;
    sink_.request_shutdown();
  }
  [[nodiscard]] const std::atomic<bool>& asked() const { return asked_; }

 private:
  devices::PowerSink& sink_;
  std::atomic<bool> asked_ = false;
};

/// One virtual machine on KVM: RAM, devices, vCPUs, wired and parked.
///
/// create() makes it cold; then either boot() fills it from a kernel or restore_units() from a snapshot; then
/// resume(). pause() and resume() may go on for ever. Not thread-safe: it belongs to the VM thread.
class Machine {
 public:
  /// Everything but the guest's state: the ioctls in the order that costs least (memory slots before vCPUs).
  /// Does not start a vCPU thread.
  static Result<std::unique_ptr<Machine>> create(std::shared_ptr<const kvm::Kvm> kvm,
                                                 const api::VmConfig& config, memory::GuestRam ram,
                                                 HostSide& host, MachineListener& listener);
  ~Machine();
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  /// Can the files that boot() loads be opened? They may have gone since the VM was created; a restored one
  /// may never have had them on this host.
  static Status check_boot_files(const api::PayloadConfig& payload);
  /// Loads kernel, initramfs, command line and ACPI tables, and sets the boot processor's registers.
  Status boot(const api::VmConfig& config);

  /// Gives the vCPUs the TSC frequency that the guest knows, before their state is restored. Within 250 ppm,
  /// the drift that Linux's timekeeping corrects, nothing is done; beyond it the host must be able to scale.
  Status match_tsc_frequency(std::uint32_t khz);

  /// Lets the guest run. Guest time goes on where it stopped.
  Status resume();
  /// Stops the guest between two instructions, then its devices, then guest time. Returns when every vCPU is
  /// parked and every request that a device had begun is complete. Internal, with the guest running on, if a
  /// device does not come to an end.
  Status pause();
  /// Ends the guest for good, before the machine goes. If that fails a device is still at work in RAM: then
  /// the machine and its host side must not be destroyed, ever.
  Status stop();

  void power_button() { chipset_->power_button(); }
  /// Asks the guest for a balloon of `bytes`; BadRequest if it has no balloon.
  Status resize_balloon(std::uint64_t bytes);
  /// What the guest has of its RAM: all but what it says is in the balloon. Bytes; any thread, while the
  /// machine exists.
  [[nodiscard]] std::uint64_t memory_actual_size() const;
  /// See VirtioDevices.
  void host_end_changed(unsigned slot) { chipset_->virtio().host_end_changed(slot); }
  /// Ids of the disks, of a paused machine, with writes that the host has no room for.
  [[nodiscard]] std::vector<std::string> full_disks() const { return chipset_->virtio().waiting_for_host(); }
  /// Injects an NMI into every vCPU of a running machine that the guest has started.
  Status inject_nmi();

  /// Every unit with state, in the order of restoring. The machine is paused.
  [[nodiscard]] std::vector<devices::StateUnit*> units();
  [[nodiscard]] const HostSide& host() const { return host_; }
  [[nodiscard]] TimeUnit& time() { return *time_; }
  [[nodiscard]] Chipset& chipset() { return *chipset_; }
  [[nodiscard]] memory::GuestRam& ram() { return ram_; }
  [[nodiscard]] const memory::GuestRam& ram() const { return ram_; }
  [[nodiscard]] const std::vector<std::unique_ptr<Vcpu>>& vcpus() const { return vcpus_; }
  [[nodiscard]] const kvm::Kvm& kvm() const { return *kvm_; }
  /// The vCPUs' and devices' counters. Any thread, while the machine exists.
  [[nodiscard]] api::Counters counters() const;

 private:
  Machine(std::shared_ptr<const kvm::Kvm> kvm, kvm::VmFd vm, memory::GuestRam ram, HostSide& host,
          MachineListener& listener);
  [[nodiscard]] std::vector<devices::GuestRegion> all_memory() const;
  Status set_up_memory() const;
  Status create_vcpus(const api::VmConfig& config, VcpuListener& listener);
  Status set_boot_state(const api::VmConfig& config);
  Status start_threads();
  [[nodiscard]] devices::VirtioBalloon* balloon() const;

  // In order of construction; destroyed backwards: vCPU threads first, then devices, then KVM, RAM last.
  std::shared_ptr<const kvm::Kvm> kvm_;
  memory::GuestRam ram_;
  kvm::VmFd vm_;
  devices::GuestMemory memory_;
  HostSide& host_;
  loop::VmClock clock_;
  memory::RamReclaim reclaim_;
  PowerLatch power_;
  std::unique_ptr<Chipset> chipset_;
  std::unique_ptr<Vcpu::Shared> shared_;
  std::unique_ptr<TimeUnit> time_;
  std::vector<std::unique_ptr<Vcpu>> vcpus_;
  std::vector<std::vector<unsigned>> affinity_;  // per vCPU: host CPUs, empty = any
  bool threads_started_ = false;
  bool stopped_ = false;
};

}  // namespace vmmd::vm
