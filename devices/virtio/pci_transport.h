#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "devices/bus.h"
#include "devices/device_events.h"
#include "devices/io_event.h"
#include "devices/pci/bars.h"
#include "devices/pci/intx.h"
#include "devices/pci/msix.h"
#include "devices/pci/pci_device.h"
#include "devices/virtio/device.h"
#include "devices/virtio/pci_registers.h"

namespace vmmd::devices {

/// A virtio device on the PCI bus (virtio 1.2, 4.1): modern only, all of it in BAR 0, 64 bits, 32 KiB.
/// MSI-X with a vector for each queue and one for the configuration, or INTx. Notifications come in by
/// ioeventfd, or as writes where the host has none left. The unit "<device unit>/pci".
///
/// What runs where: vCPUs change registers under the mutex and post one reconcile(); that runs on the
/// device's loop, compares what should be (driver ready, bus master, not paused, not resetting) with what is,
/// and starts or stops device and queues. So it does not matter in which order wishes come or how many were
/// merged. Queues, watches and queue phases belong to the loop.
///
/// Starts paused, as a cold device: restore() or not, then resume().
///
/// Locks: the PCI root's, then mutex_, then those of MSI-X, the shared line and the bus. mutex_ is never held
/// while the device is called, since the device calls back.
class VirtioPci final : public PciDevice, public StateUnit, private BusDevice, private VirtioTransport {
 public:
  static constexpr std::uint64_t kBarSize = 0x8000;

  /// All of it outlives the transport.
  struct Glue {
    const GuestMemory* memory = nullptr;
    MsiSink* msi = nullptr;
    SharedInterruptLine* line = nullptr;  // that of INTA of this slot
    Bus* mmio = nullptr;
    IoEvents* io_events = nullptr;
    std::vector<PciWindow> windows;
    std::uint64_t bar_address = 0;   // where BAR 0 is at power-on; 0: the guest finds a place
    DeviceEvents* events = nullptr;  // nullptr: nobody wants to know
  };
  /// `device` outlives the transport. Internal if the host has no descriptors left.
  static Result<std::unique_ptr<VirtioPci>> create(VirtioDevice& device, Glue glue);
  /// After pause() has completed and the root has no way here any more; on the device's loop, or while it
  /// does not run.
  ~VirtioPci() override;

  /// Stops the device and calls `done` on its loop when it has stopped and nothing else is to be done; paused
  /// already, it calls `done` all the same. One at a time.
  void pause(std::function<void()> done);
  /// After create(), restore() or pause(). One that is not complete is given up: its `done` is not called.
  void resume();

  /// Whether the device, or a queue of it, has been told to stop and has not done so. Any thread.
  [[nodiscard]] bool is_stopping() const;
  /// Whether the device, which is paused, has given requests back that the host could not serve.
  [[nodiscard]] bool waits_for_host() const;

  [[nodiscard]] std::string_view pci_name() const override { return device_.unit_name(); }
  [[nodiscard]] std::uint32_t read_config(unsigned offset, unsigned width) override;
  void write_config(unsigned offset, unsigned width, std::uint32_t value) override;

  [[nodiscard]] std::string_view unit_name() const override { return unit_name_; }
  /// While paused.
  [[nodiscard]] Result<UnitState> save() const override;
  /// While paused; before the interrupt controller, whose saved pins win over our line.
  Status restore(const UnitState& state) override;
  /// While paused. The device model is reset by its owner.
  void reset() override;
  [[nodiscard]] std::map<std::string, std::int64_t> counters() const override;

 private:
  enum class Phase { Stopped, Running, Stopping };
  enum class QueuePhase { Off, On, Stopping };
  struct QueueRun {  // the loop's, but for the first two
    UniqueFd notified;
    std::uint64_t io_event = 0;  // address it is registered at; 0: not
    std::unique_ptr<FdWatch> watch;
    QueuePhase phase = QueuePhase::Off;
    bool stopped = false;  // the device is done with it
  };
  using Lock = std::unique_lock<std::mutex>;

  VirtioPci(VirtioDevice& device, Glue glue);
  void build_config_space();

  // pci_transport.cpp: the guest's accesses and the device's calls.
  std::uint64_t read(std::uint64_t offset, unsigned width) override;
  void write(std::uint64_t offset, unsigned width, std::uint64_t value) override;
  void write_common(std::uint64_t offset, unsigned width, std::uint64_t value);
  void access_window(bool is_write);
  void interrupt_queue(unsigned index) override;
  void interrupt_config() override;
  void needs_reset(std::string_view reason) override;
  void interrupt(std::uint16_t vector, std::uint8_t isr);
  void break_device(std::string_view reason);
  void config_changed();
  void sync_io_events();

  // pci_run.cpp: the device's phases.
  void post_reconcile();
  void reconcile();
  [[nodiscard]] bool should_run() const;
  [[nodiscard]] bool start_ring(unsigned index, Queue& queue) const;
  [[nodiscard]] bool rings_valid() const;
  void start(Lock& lock);
  void begin_stop(Lock& lock);
  void finish_stop();
  void reconcile_queues(Lock& lock);
  void finish_queue_stop(unsigned index);
  void settle(Lock& lock);
  void watch(unsigned index);

  VirtioDevice& device_;
  const Glue glue_;
  const std::string unit_name_;
  unsigned window_ = 0;  // offset of the PCI configuration access capability

  mutable std::mutex mutex_;
  ConfigSpace space_;
  ConfigSpace power_on_;
  Msix msix_;
  Intx intx_;
  Bars bars_;
  VirtioRegisters registers_;
  Phase phase_ = Phase::Stopped;  // changed on the loop only
  bool paused_ = true;
  bool posted_ = false;        // a reconcile() is on its way
  bool reset_device_ = false;  // the device has not heard of the driver's reset yet
  std::function<void()> paused_done_;

  std::vector<Queue> queues_;
  std::vector<QueueRun> runs_;
  bool stopped_ = false;               // the loop's: the device has stopped
  std::shared_ptr<VirtioPci*> alive_;  // what was posted before the end does nothing after it

  struct Counters {
    std::atomic<std::int64_t> notifications = 0, mmio_notifications = 0, intx = 0, resets = 0;
    std::atomic<std::int64_t> queue_resets = 0, needs_reset = 0;
  };
  Counters counters_;
};

}  // namespace vmmd::devices
