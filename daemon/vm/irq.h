#pragma once

#include <linux/kvm.h>

#include <array>
#include <optional>
#include <span>

#include "daemon/kvm/vm_fd.h"
#include "devices/chipset/ioapic.h"
#include "devices/interrupt.h"
#include "devices/io_event.h"

namespace vmmd::vm {

/// MSIs into KVM's LAPICs.
class KvmMsiSink final : public devices::MsiSink {
 public:
  explicit KvmMsiSink(const kvm::VmFd& vm) : vm_(vm) {}
  void signal(devices::MsiMessage message) override { static_cast<void>(vm_.signal_msi(message)); }

 private:
  const kvm::VmFd& vm_;
};

/// Notifications of virtio queues that do not leave the kernel.
class KvmIoEvents final : public devices::IoEvents {
 public:
  explicit KvmIoEvents(const kvm::VmFd& vm) : vm_(vm) {}
  Status add(std::uint64_t address, int eventfd) override {
    return vm_.set_io_event(kvm::VmFd::IoEvent::Add, address, eventfd);
  }
  void remove(std::uint64_t address, int eventfd) override {
    static_cast<void>(vm_.set_io_event(kvm::VmFd::IoEvent::Remove, address, eventfd));
  }

 private:
  const kvm::VmFd& vm_;
};

/// Keeps KVM's GSI routing in step with the IOAPIC. One ioctl of about 14 us per change; a guest changes
/// routes when it sets up a driver, not per interrupt. Called with the IOAPIC's lock held.
class KvmRoutes final : public devices::IoapicRoutes {
 public:
  explicit KvmRoutes(const kvm::VmFd& vm) : vm_(vm) {}
  void set_route(unsigned pin, std::optional<devices::MsiMessage> message) override;
  void set_routes(std::span<const std::optional<devices::MsiMessage>> messages) override;

 private:
  void commit();

  const kvm::VmFd& vm_;
  std::array<std::optional<devices::MsiMessage>, devices::Ioapic::kPins> pins_;
};

}  // namespace vmmd::vm
