#include "daemon/vm/machine.h"

#include <fcntl.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <span>
#include <utility>

#include "base/file.h"
#include "base/random.h"
#include "daemon/snapshot/cpu/host_cpu.h"
#include "daemon/x86/acpi/tables.h"
#include "daemon/x86/cpuid.h"
#include "daemon/x86/loader.h"
#include "daemon/x86/msr.h"

namespace vmmd::vm {

namespace {

// LAPIC registers (SDM vol. 3, table 11-1) and delivery modes of their local vectors.
constexpr std::size_t kLapicLint0 = 0x350;
constexpr std::size_t kLapicLint1 = 0x360;
constexpr std::uint32_t kDeliverExtInt = 7U << 8;
constexpr std::uint32_t kDeliverNmi = 4U << 8;

x86::CpuModel cpu_model(const api::CpusConfig& config, const kvm::Kvm& kvm) {
  x86::CpuModel model;
  model.vcpus = config.boot_vcpus;
  model.max_phys_bits = std::min(config.max_phys_bits, x86::host_phys_bits(kvm.supported_cpuid()));
  model.nested = config.nested;
  if (config.topology) {
    model.topology = x86::CpuTopology{config.topology->threads_per_core, config.topology->cores_per_die,
                                      config.topology->dies_per_package, config.topology->packages};
  }
  return model;
}

// LINT0 takes a PIC's interrupts and LINT1 NMIs, as the MADT says.
Status wire_local_interrupts(const kvm::VcpuFd& vcpu) {
  VMMD_ASSIGN(auto lapic, (vcpu.get<KVM_GET_LAPIC, kvm_lapic_state>("KVM_GET_LAPIC")));
  std::memcpy(lapic.regs + kLapicLint0, &kDeliverExtInt, sizeof kDeliverExtInt);
  std::memcpy(lapic.regs + kLapicLint1, &kDeliverNmi, sizeof kDeliverNmi);
  return vcpu.set<KVM_SET_LAPIC>(lapic, "KVM_SET_LAPIC");
}

struct OpenBootFiles {
  UniqueFd kernel;
  UniqueFd initramfs;
  x86::BootFiles files;
};

Result<OpenBootFiles> open_boot_files(const api::PayloadConfig& payload) {
  OpenBootFiles open;
  if (!payload.kernel)
    return fail(ErrorCode::BadRequest, "payload.kernel is not given: there is nothing to boot");
  VMMD_ASSIGN(open.kernel, open_file(*payload.kernel, O_RDONLY | O_NONBLOCK));
  open.files.kernel_fd = open.kernel.get();
  open.files.kernel_name = *payload.kernel;
  if (payload.initramfs) {
    VMMD_ASSIGN(open.initramfs, open_file(*payload.initramfs, O_RDONLY | O_NONBLOCK));
    open.files.initramfs_fd = open.initramfs.get();
    open.files.initramfs_name = *payload.initramfs;
  }
  open.files.cmdline = payload.cmdline.value_or("");
  return open;
}

}  // namespace

Machine::Machine(std::shared_ptr<const kvm::Kvm> kvm, kvm::VmFd vm, memory::GuestRam ram, HostSide& host,
                 MachineListener& listener)
    : kvm_(std::move(kvm)),
      ram_(std::move(ram)),
      vm_(std::move(vm)),
      memory_(ram_.regions()),
      host_(host),
      clock_(host.loop()),
      reclaim_(ram_),
      power_(listener) {}

Machine::~Machine() {
  if (!stopped_ && !stop()) std::abort();  // memory that a device writes to cannot be given back
}

Status Machine::stop() {
  // The guest first, so that its last output can be drained. All are asked before one is waited for: a vCPU
  // that keeps its CPU busy shall not hold up the others, one after the other.
  for (const auto& vcpu : vcpus_) vcpu->stop();
  vcpus_.clear();
  host_.drain_output();
  if (chipset_) VMMD_TRY(chipset_->virtio().pause(VirtioDevices::Others::Stay));
  stopped_ = true;
  return {};
}

Result<std::unique_ptr<Machine>> Machine::create(std::shared_ptr<const kvm::Kvm> kvm,
                                                 const api::VmConfig& config, memory::GuestRam ram,
                                                 HostSide& host, MachineListener& listener) {
  if (config.cpus.boot_vcpus > kvm->max_vcpus()) {
    return fail(ErrorCode::BadRequest, "{} vCPUs are configured, this host's KVM allows {}",
                config.cpus.boot_vcpus, kvm->max_vcpus());
  }
  VMMD_ASSIGN(kvm::VmFd vm, kvm::VmFd::create(kvm));
  std::unique_ptr<Machine> machine(
      new Machine(std::move(kvm), std::move(vm), std::move(ram), host, listener));
  VMMD_TRY(machine->set_up_memory());
  VMMD_ASSIGN(machine->chipset_,
              Chipset::build(config, {machine->vm_, machine->memory_, machine->ram_, host, machine->clock_,
                                      machine->power_, listener, machine->reclaim_}));
  VMMD_TRY(machine->create_vcpus(config, listener));
  machine->time_ = std::make_unique<TimeUnit>(machine->vm_, machine->clock_, machine->vcpus_);
  // vm.resize since the host end was opened.
  if (config.balloon && machine->balloon() != nullptr)
    VMMD_TRY(machine->resize_balloon(config.balloon->size));
  return machine;
}

// RAM, and what devices have above it.
std::vector<devices::GuestRegion> Machine::all_memory() const {
  std::vector<devices::GuestRegion> all = ram_.regions();
  for (const auto& device : host_.devices()) {
    for (const devices::GuestRegion& region : device.end->memory()) all.push_back(region);
  }
  return all;
}

Status Machine::set_up_memory() const {
  unsigned slot = 0;
  for (const devices::GuestRegion& region : all_memory()) VMMD_TRY(vm_.set_memory_region(slot++, region));
  return {};
}

Status Machine::create_vcpus(const api::VmConfig& config, VcpuListener& listener) {
  const x86::CpuModel model = cpu_model(config.cpus, *kvm_);
  VMMD_TRY(x86::check_cpu_model(model));
  shared_ = std::make_unique<Vcpu::Shared>(
      Vcpu::Shared{chipset_->ports(), chipset_->mmio(), chipset_->ioapic(), listener, power_.asked(), *kvm_,
                   x86::saved_msr_indices(kvm_->msr_indices()), all_memory()});
  for (unsigned i = 0; i < model.vcpus; ++i) {
    VMMD_ASSIGN(kvm::VcpuFd fd, kvm::VcpuFd::create(vm_, x86::apic_id_of(i, model)));
    vcpus_.push_back(std::make_unique<Vcpu>(i, std::move(fd), *shared_));
  }
  if (ExtInt* pic = chipset_->external_interrupts()) vcpus_.front()->connect(*pic);
  affinity_.resize(model.vcpus);
  for (const api::CpuAffinity& affinity : config.cpus.affinity) {
    if (affinity.vcpu < model.vcpus) affinity_[affinity.vcpu] = affinity.host_cpus;
  }
  return {};
}

Status Machine::check_boot_files(const api::PayloadConfig& payload) {
  VMMD_TRY(open_boot_files(payload));
  return {};
}

Status Machine::boot(const api::VmConfig& config) {
  VMMD_ASSIGN(const OpenBootFiles open, open_boot_files(config.payload));
  devices::VmGenId::Id id{};
  VMMD_TRY(fill_random(std::as_writable_bytes(std::span(id)), "cannot draw a VM generation id"));
  const devices::GuestAddress id_address(x86::kVmGenIdAddress);
  VMMD_TRY(chipset_->generation_id().place(id_address, id));

  const x86::CpuModel model = cpu_model(config.cpus, *kvm_);
  x86::AcpiConfig acpi;
  for (unsigned i = 0; i < model.vcpus; ++i) acpi.apic_ids.push_back(x86::apic_id_of(i, model));
  acpi.ram = ram_.layout();
  acpi.memory_end = host_.memory_end();
  acpi.max_phys_bits = model.max_phys_bits;
  acpi.serial = chipset_->has_serial();
  acpi.rtc = true;
  acpi.pc = chipset_->has_pc_devices();
  acpi.intx_slots = chipset_->virtio().slots();
  acpi.vmgenid = id_address;
  VMMD_ASSIGN(const devices::GuestAddress rsdp, x86::write_acpi_tables(memory_, acpi));
  VMMD_ASSIGN(const x86::LoadedKernel kernel, x86::load_kernel(memory_, ram_.layout(), open.files, rsdp));

  VMMD_TRY(set_boot_state(config));
  const kvm::VcpuFd& boot_processor = vcpus_.front()->fd();
  VMMD_ASSIGN(auto sregs, (boot_processor.get<KVM_GET_SREGS, kvm_sregs>("KVM_GET_SREGS")));
  kvm_regs regs = {};
  VMMD_TRY(x86::set_boot_registers(kernel, memory_, regs, sregs));
  VMMD_TRY(boot_processor.set<KVM_SET_SREGS>(sregs, "KVM_SET_SREGS"));
  return boot_processor.set<KVM_SET_REGS>(regs, "KVM_SET_REGS");
}

// What every vCPU needs before its first instruction, whatever is booted.
Status Machine::set_boot_state(const api::VmConfig& config) {
  x86::CpuModel model = cpu_model(config.cpus, *kvm_);
  if (const std::uint32_t khz = vcpus_.front()->fd().tsc_khz(); khz != 0) model.tsc_khz = khz;
  model.hardware_kvm = x86::kvm_uses_hardware(kvm_->supported_cpuid());
  model.brand = x86::host_cpu_brand();
  VMMD_ASSIGN(const auto cpuid, x86::CpuidTemplate::build(kvm_->supported_cpuid(), model));
  const std::vector<kvm_msr_entry> msrs = x86::boot_msrs();
  for (const auto& vcpu : vcpus_) {
    VMMD_TRY(vcpu->set_cpuid(cpuid.for_vcpu(vcpu->index())));
    std::vector<std::uint32_t> refused;
    VMMD_TRY(vcpu->fd().set_msrs(msrs, refused));
    for (const std::uint32_t index : refused) {
      if (!x86::is_optional_msr(index))
        return fail(ErrorCode::Internal, "KVM refuses to set MSR {:#x}", index);
    }
    VMMD_TRY(wire_local_interrupts(vcpu->fd()));
  }
  return {};
}

Status Machine::match_tsc_frequency(std::uint32_t khz) {
  const snapshot::HostTsc host{vcpus_.front()->fd().tsc_khz(), kvm_->check(KVM_CAP_TSC_CONTROL) > 0};
  if (!snapshot::tsc_differs(khz, host.khz)) return {};
  if (const auto problem = snapshot::tsc_problem(khz, host))
    return fail(ErrorCode::BadRequest, "{}", *problem);
  for (const auto& vcpu : vcpus_) VMMD_TRY(vcpu->fd().set_tsc_khz(khz));
  return {};
}

Status Machine::start_threads() {
  for (const auto& vcpu : vcpus_) VMMD_TRY(vcpu->start(affinity_[vcpu->index()]));
  threads_started_ = true;
  return {};
}

// What the guest need not wait for comes behind its first instruction: a thread that is new finds that it may
// run, rather than sleep and be woken; and that of the devices does not take the CPU that it would have.
Status Machine::resume() {
  VMMD_TRY(time_->start());
  chipset_->rtc().resync();
  if (!threads_started_) {
    if (Status started = start_threads(); !started) {
      static_cast<void>(time_->stop());
      return started;
    }
  }
  for (const auto& vcpu : vcpus_) vcpu->unpark();
  chipset_->virtio().resume();
  return {};
}

Status Machine::pause() {
  for (const auto& vcpu : vcpus_) vcpu->park();
  for (const auto& vcpu : vcpus_) vcpu->wait_parked();
  Status paused = chipset_->virtio().pause();
  if (paused) {
    paused = time_->stop();
    if (paused) return {};
    static_cast<void>(time_->start());  // as it was: time runs on
    chipset_->virtio().resume();
  }
  time_->excuse_vcpus();  // they may have stood still for as long as a device may take
  for (const auto& vcpu : vcpus_) vcpu->unpark();
  return paused;
}

devices::VirtioBalloon* Machine::balloon() const {
  return static_cast<devices::VirtioBalloon*>(chipset_->virtio().find(devices::VirtioType::Balloon));
}

Status Machine::resize_balloon(std::uint64_t bytes) {
  devices::VirtioBalloon* const balloon = this->balloon();
  if (balloon == nullptr)
    return fail(ErrorCode::BadRequest, "the VM has no balloon: give it \"balloon\" when it is created");
  balloon->resize(bytes);
  return {};
}

std::uint64_t Machine::memory_actual_size() const {
  const devices::VirtioBalloon* const balloon = this->balloon();
  return ram_.size() - (balloon != nullptr ? balloon->actual_bytes() : 0);
}

// KVM takes an NMI only for a vCPU that is not in KVM_RUN: leave it for a moment. Guest time runs on.
Status Machine::inject_nmi() {
  for (const auto& vcpu : vcpus_) vcpu->park();
  Status status;
  for (const auto& vcpu : vcpus_) {
    vcpu->wait_parked();
    if (status) status = vcpu->inject_nmi();
  }
  for (const auto& vcpu : vcpus_) vcpu->unpark();
  return status;
}

std::vector<devices::StateUnit*> Machine::units() {
  std::vector<devices::StateUnit*> units{time_.get()};
  for (const auto& vcpu : vcpus_) units.push_back(vcpu.get());
  for (devices::StateUnit* unit : chipset_->units()) units.push_back(unit);
  return units;
}

api::Counters Machine::counters() const {
  api::Counters counters;
  for (const auto& vcpu : vcpus_) counters[std::string(vcpu->unit_name())] = vcpu->counters();
  for (const devices::StateUnit* unit : chipset_->units()) {
    if (auto values = unit->counters(); !values.empty())
      counters[std::string(unit->unit_name())] = std::move(values);
  }
  return counters;
}

}  // namespace vmmd::vm
