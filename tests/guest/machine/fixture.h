#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "api/config.h"
#include "base/unique_fd.h"
#include "daemon/kvm/kvm.h"
#include "daemon/vm/host_side.h"
#include "daemon/vm/machine.h"
#include "proto/state.pb.h"
#include "tests/unit/support/temp_dir.h"

namespace vmmd::vm::test {

/// Ring 0 may be emulated at 2 million instructions/s, on a host with other work to do.
inline constexpr std::chrono::seconds kDeadline{60};

/// /dev/kvm, opened once.
std::shared_ptr<const kvm::Kvm> host_kvm();
/// The file of a bare-metal guest.
std::string guest_image(std::string_view name);

/// A client of the serial port's socket: what the guest says, and what it is told.
class Console {
 public:
  explicit Console(const std::string& path);
  void send(std::string_view text) const;
  /// Waits until `text` comes behind what an earlier wait found; fails the test after kDeadline.
  void wait_for(std::string_view text);
  /// The next whole line that starts with `start`, without its end.
  std::string next_line(std::string_view start);
  /// Everything so far.
  [[nodiscard]] const std::string& text() const { return text_; }
  [[nodiscard]] std::vector<std::string> lines() const;  // whole ones

 private:
  void receive();

  UniqueFd socket_;
  std::string text_;
  std::size_t seen_ = 0;
};

/// Counts what a machine tells its owner.
class Recorder final : public MachineListener {
 public:
  void on_vcpu_stopped(VcpuStop stop) override;
  void request_reset() override;
  void request_shutdown() override;
  void disk_full(std::string_view, std::string_view) override {}
  void backend_failed(std::string_view, std::string_view) override {}
  void needs_reset(std::string_view, std::string_view, std::uint64_t) override {}
  void watchdog_expired(std::string_view, std::string_view) override {}

  /// Waits for the first event of any kind.
  void wait();
  [[nodiscard]] std::vector<VcpuStop> stops() const;
  [[nodiscard]] unsigned resets() const;
  [[nodiscard]] unsigned shutdowns() const;
  [[nodiscard]] std::size_t events() const;

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<VcpuStop> stops_;
  unsigned resets_ = 0;
  unsigned shutdowns_ = 0;
};

struct Setup {
  // NOLINTNEXTLINE(google-explicit-constructor): a guest's name alone is a setup
  Setup(std::string guest_name, std::string guest_cmdline = {}, unsigned cpus = 1)
      : guest(std::move(guest_name)), cmdline(std::move(guest_cmdline)), vcpus(cpus) {}

  std::string guest;
  std::string cmdline;
  unsigned vcpus;
};

/// A snapshot in memory.
struct Saved {
  state::SavedState units;
  UniqueFd memory;
};

/// A machine with its host side and the client of its serial port.
class TestVm {
 public:
  /// Everything but the machine.
  explicit TestVm(const Setup& setup);
  ~TestVm();

  Status create();
  /// create(), boot and let run; fails the test on an error.
  void boot();
  /// Of a paused machine, with memory.
  [[nodiscard]] Saved save();
  [[nodiscard]] state::SavedState save_units();
  /// A new machine from a snapshot, paused.
  Status try_restore(const Saved& saved);
  void restore(const Saved& saved);

  void pause();
  void resume();
  [[nodiscard]] Machine& machine() { return *machine_; }
  void destroy() { machine_.reset(); }
  [[nodiscard]] Console& console() { return *console_; }
  [[nodiscard]] Recorder& recorder() { return recorder_; }
  [[nodiscard]] HostSide& host() { return *host_; }
  [[nodiscard]] api::VmConfig& config() { return config_; }

 private:
  Status create_with(memory::GuestRam ram);
  [[nodiscard]] std::vector<memory::RamRange> layout() const;

  testing::TempDir dir_;
  api::VmConfig config_;
  Recorder recorder_;
  std::unique_ptr<HostSide> host_;
  std::unique_ptr<Console> console_;
  std::unique_ptr<Machine> machine_;  // goes first
};

/// The vCPU's message in saved units.
[[nodiscard]] state::Vcpu vcpu_of(const state::SavedState& saved, unsigned index);
/// The numbers of a line, in order: "tick 7" gives {7}.
[[nodiscard]] std::vector<std::uint64_t> numbers(std::string_view line);

}  // namespace vmmd::vm::test
