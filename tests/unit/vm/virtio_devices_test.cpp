#include "daemon/vm/virtio_devices.h"

#include <sys/eventfd.h>

#include <array>
#include <functional>
#include <utility>

#include <doctest/doctest.h>

#include "base/unique_fd.h"
#include "daemon/loop/device_loop.h"
#include "tests/unit/support/await.h"
#include "tests/unit/support/fake_interrupt.h"
#include "tests/unit/support/virtio_guest.h"

namespace vmmd::vm {
namespace {

using namespace std::chrono_literals;

/// Stops at once, or only when it is let go.
class Model final : public devices::VirtioDevice {
 public:
  Model(std::string name, devices::EventLoop& loop) : name_(std::move(name)), loop_(loop) {}
  [[nodiscard]] devices::VirtioType type() const override { return devices::VirtioType::Rng; }
  [[nodiscard]] devices::EventLoop& loop() override { return loop_; }
  [[nodiscard]] std::uint64_t features() const override { return 0; }
  [[nodiscard]] std::vector<std::uint16_t> queue_sizes() const override { return {8}; }
  [[nodiscard]] std::uint64_t read_config(std::uint64_t, unsigned) override { return 0; }
  void start(const devices::VirtioRun&) override { ++starts; }
  void stop(std::function<void()> stopped) override {
    if (hold) {
      held_ = std::move(stopped);
    } else {
      stopped();
    }
  }
  void notify(unsigned) override {}
  void stop_queue(unsigned, std::function<void()> stopped) override { stopped(); }
  void start_queue(unsigned) override {}
  [[nodiscard]] std::string_view unit_name() const override { return name_; }
  [[nodiscard]] Result<devices::UnitState> save() const override { return devices::UnitState{}; }
  Status restore(const devices::UnitState&) override { return {}; }
  void reset() override {}

  void let_go() {
    hold = false;
    if (held_) std::exchange(held_, nullptr)();
  }
  bool hold = false;  // these are the loop's
  unsigned starts = 0;

 private:
  const std::string name_;
  devices::EventLoop& loop_;
  std::function<void()> held_;
};

struct NoIoEvents final : devices::IoEvents {
  Status add(std::uint64_t, int) override { return fail(ErrorCode::Internal, "none here"); }
  void remove(std::uint64_t, int) override {}
};

/// Two devices whose drivers are ready, under a limit that a held one exceeds.
struct Fixture {
  static constexpr std::uint64_t kWindow = 0x10'0000'0000;
  Fixture() {
    REQUIRE(loop.start());
    for (unsigned i = 0; i < models.size(); ++i) {
      auto model = std::make_unique<Model>(i == 0 ? "first" : "second", devices.share(i + 1, loop));
      models.at(i) = model.get();
      const std::uint64_t bar = kWindow + i * devices::VirtioPci::kBarSize;
      REQUIRE(devices.add(i + 1, std::move(model),
                          {.memory = &guest.memory(),
                           .msi = &msi,
                           .line = &line,
                           .mmio = &mmio,
                           .io_events = &io_events,
                           .windows = {{kWindow, 0x10'0000}},
                           .bar_address = bar}));
      // Memory decoding and bus mastering, by ECAM.
      root.ecam().write((std::uint64_t{i} + 1) << 15 | devices::kPciCommand, 2,
                        devices::kPciCommandMemory | devices::kPciCommandBusMaster);
      make_ready(bar);
    }
  }
  /// What a driver writes to the common configuration (virtio 1.2, 4.1.4.3) up to DRIVER_OK, all queues off.
  void make_ready(std::uint64_t bar) {
    constexpr std::uint64_t kDriverFeatureSelect = 8;
    constexpr std::uint64_t kDriverFeature = 12;
    constexpr std::uint64_t kStatus = 20;
    mmio.write(bar + kStatus, 1, 3);
    mmio.write(bar + kDriverFeatureSelect, 4, 1);
    mmio.write(bar + kDriverFeature, 4, 1);  // VERSION_1
    mmio.write(bar + kStatus, 1, 3 | 8);
    mmio.write(bar + kStatus, 1, 3 | 8 | 4);
  }
  unsigned starts(unsigned index) {
    unsigned count = 0;
    loop.run_sync([&] { count = models.at(index)->starts; });
    return count;
  }

  loop::DeviceLoop loop;
  testing::FakeGuest guest;
  testing::FakeMsiSink msi;
  testing::FakeInterruptLine pin;
  devices::SharedInterruptLine line{pin};
  devices::Bus mmio{"mmio"};
  NoIoEvents io_events;
  devices::PciRoot root;
  std::array<Model*, 2> models{};
  VirtioDevices devices{root, 50ms};
};

}  // namespace

TEST_CASE_FIXTURE(Fixture, "devices start with resume and stop with pause, as often as one likes") {
  for (unsigned round = 1; round <= 3; ++round) {
    devices.resume();
    CHECK(starts(0) == round);
    CHECK(starts(1) == round);
    CHECK(devices.pause());
  }
}

TEST_CASE_FIXTURE(Fixture, "a device that does not come to an end is named, and all run on") {
  devices.resume();
  loop.run_sync([this] { models[1]->hold = true; });
  const Status paused = devices.pause();
  REQUIRE_FALSE(paused);
  CHECK(paused.error().to_string() == "a device did not complete what is in flight within 50 ms: second");
  CHECK(starts(0) == 2);
  loop.run_sync([this] { models[1]->let_go(); });
  loop.run_sync([] {});  // what that posted
  CHECK(starts(1) == 2);
  CHECK(devices.pause());
}

TEST_CASE_FIXTURE(Fixture, "at the end of a VM, who has stopped is not started again for one that does not") {
  devices.resume();
  loop.run_sync([this] { models[1]->hold = true; });
  CHECK_FALSE(devices.pause(VirtioDevices::Others::Stay));
  loop.run_sync([] {});
  CHECK(starts(0) == 1);
  loop.run_sync([this] { models[1]->let_go(); });
  CHECK(devices.pause());
}

TEST_CASE_FIXTURE(Fixture, "all devices that do not come to an end are named") {
  devices.resume();
  loop.run_sync([this] { models[0]->hold = models[1]->hold = true; });
  const Status paused = devices.pause();
  REQUIRE_FALSE(paused);
  CHECK(paused.error().to_string() ==
        "devices did not complete what is in flight within 50 ms: first, second");
  loop.run_sync([this] {
    models[0]->let_go();
    models[1]->let_go();
  });
  CHECK(devices.pause());
}

TEST_CASE_FIXTURE(Fixture, "who only waits for its thread is not blamed for who holds that up") {
  devices.resume();
  testing::Happening begun;
  testing::Happening let_go;
  const auto hold_up = [&] {
    begun.happen();
    CHECK(let_go.wait_for(1));
  };
  SUBCASE("by what it posted") {
    models[0]->loop().post(hold_up);
    REQUIRE(begun.wait_for(1));
  }
  SUBCASE("by what it waited for") {
    const UniqueFd ready(::eventfd(1, EFD_CLOEXEC));
    std::unique_ptr<devices::FdWatch> watch;
    loop.run_sync([&] {
      watch = *models[0]->loop().watch(ready.get(), devices::FdEvent::Readable, [&] {
        const auto once = std::move(watch);
        hold_up();
      });
    });
    REQUIRE(begun.wait_for(1));
  }
  const Status paused = devices.pause();
  let_go.happen();
  loop.run_sync([] {});
  REQUIRE_FALSE(paused);
  CHECK(paused.error().to_string() == "a device did not complete what is in flight within 50 ms: first");
  CHECK(devices.pause());
}

TEST_CASE_FIXTURE(Fixture, "a device stands before its transport, and each has its place") {
  std::vector<std::string> names;
  for (const auto* unit : devices.units()) names.emplace_back(unit->unit_name());
  CHECK(names == std::vector<std::string>{"first", "first/pci", "second", "second/pci"});
  CHECK(devices.slots() == std::vector<unsigned>{1, 2});
}

}  // namespace vmmd::vm
