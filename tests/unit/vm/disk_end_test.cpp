#include "daemon/vm/disk_end.h"

#include <fstream>

#include <doctest/doctest.h>

#include "devices/virtio/device.h"
#include "tests/unit/support/fake_clock.h"
#include "tests/unit/support/fake_device_events.h"
#include "tests/unit/support/fake_event_loop.h"
#include "tests/unit/support/fake_power.h"
#include "tests/unit/support/temp_dir.h"
#include "tests/unit/support/virtio_guest.h"

using namespace vmmd;

namespace {

struct Host {
  Host() { std::ofstream(dir / "image") << std::string(8192, 'i'); }
  api::DiskConfig disk(const std::string& id) const {
    api::DiskConfig config;
    config.path = dir / "image";
    config.pci.id = id;
    return config;
  }
  Result<std::unique_ptr<vm::HostEnd>> open(const api::DiskConfig& config) const {
    return vm::DiskEnd::open(config, std::make_shared<vm::RateLimitGroups>(groups));
  }

  testing::TempDir dir;
  std::vector<api::RateLimitGroupConfig> groups;
};

struct NoReclaim final : devices::MemoryReclaim {
  [[nodiscard]] std::uint64_t granularity() const override { return 4096; }
  Result<std::uint64_t> discard(devices::GuestAddress, std::uint64_t) override { return 0; }
};

/// What a device is made with.
struct Machine {
  testing::FakeEventLoop loop;
  testing::FakeClock clock;
  testing::FakeDeviceEvents events;
  const testing::FakeGuest guest;
  NoReclaim reclaim;
  testing::FakePowerSink power;
  const vm::DeviceGlue glue{guest.memory(), clock, loop, events, reclaim, power};
};

}  // namespace

TEST_CASE("disk: the second VM on one image is told which image, and what to do") {
  const Host host;
  const auto first = host.open(host.disk("a"));
  REQUIRE(first.has_value());
  const auto second = host.open(host.disk("b"));
  REQUIRE_FALSE(second.has_value());
  CHECK(second.error().code == ErrorCode::Conflict);
  const std::string message = second.error().to_string();
  CHECK(message.find("\"b\"") != std::string::npos);
  CHECK(message.find(host.dir / "image") != std::string::npos);
  CHECK(message.find("give this VM a copy") != std::string::npos);
}

TEST_CASE("disk: those who only read share an image, until it is closed nobody writes it") {
  const Host host;
  api::DiskConfig reader = host.disk("r");
  reader.readonly = true;
  auto first = host.open(reader);
  REQUIRE(first.has_value());
  {
    const auto second = host.open(reader);
    CHECK(second.has_value());
    CHECK_FALSE(host.open(host.disk("w")).has_value());
  }
  first->reset();
  CHECK(host.open(host.disk("w")).has_value());
}

TEST_CASE("disk: a device is as configured, and a reboot's sees that the image has grown") {
  const Host host;
  Machine machine;
  api::DiskConfig config = host.disk("root");
  config.num_queues = 3;
  config.queue_size = 64;
  const auto end = host.open(config);
  REQUIRE(end.has_value());
  {
    const auto device = (*end)->make_device(machine.glue);
    REQUIRE(device.has_value());
    CHECK((*device)->unit_name() == "disk:root");
    CHECK((*device)->queue_sizes() == std::vector<std::uint16_t>{64, 64, 64});
    CHECK((*device)->read_config(0, 8) == 16);
  }
  std::filesystem::resize_file(host.dir / "image", 65536);
  const auto device = (*end)->make_device(machine.glue);
  REQUIRE(device.has_value());
  CHECK((*device)->read_config(0, 8) == 128);
}

TEST_CASE("disk: an image that was cut is made as long again, or the guest's size stays and that is said") {
  const Host host;
  Machine machine;
  const auto image = host.dir / "image";
  const auto end = host.open(host.disk("root"));
  REQUIRE(end.has_value());
  auto device = (*end)->make_device(machine.glue);
  REQUIRE((*end)->resize(65536));
  std::filesystem::resize_file(image, 4096);
  for (const std::uint64_t size : {4096U, 8192U, 65536U - 512U}) {
    const Status refused = (*end)->resize(size);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().to_string().find("was cut to 4096 bytes, and the guest believes in 65536") !=
          std::string::npos);
    CHECK(std::filesystem::file_size(image) == 4096);
  }
  SUBCASE("mended") {
    REQUIRE((*end)->resize(65536));
    CHECK(std::filesystem::file_size(image) == 65536);
  }
  SUBCASE("taken as it is by a reboot") {
    device->reset();
    device = (*end)->make_device(machine.glue);
    CHECK((*device)->read_config(0, 8) == 4096 / 512);
    CHECK((*end)->resize(8192));
  }
}

TEST_CASE("disk: one that says where its queues run has a thread for that, others share theirs") {
  const Host host;
  api::DiskConfig config = host.disk("a");
  {
    const auto shares = host.open(config);
    REQUIRE(shares.has_value());
    CHECK_FALSE((*shares)->own_loop().has_value());
  }
  config.num_queues = 3;
  config.queue_affinity = {{0, {3, 5}}, {2, {1}}};
  const auto end = host.open(config);
  REQUIRE(end.has_value());
  const auto own = (*end)->own_loop();
  REQUIRE(own.has_value());
  CHECK(own->cpus == std::vector<unsigned>{3, 5, 1});
}

TEST_CASE("disk: one that waits for the host on its thread has one for itself") {
  const Host host;
  api::DiskConfig config = host.disk("a");
  config.overlay = host.dir / "layer";
  const auto end = host.open(config);
  REQUIRE(end.has_value());
  const auto own = (*end)->own_loop();
  REQUIRE(own.has_value());
  CHECK(own->cpus.empty());
}

TEST_CASE("rate limits: a group's limiter is shared as long as somebody has it") {
  testing::FakeClock clock;
  vm::RateLimitGroups groups({{"g", {}}, {"h", {}}});
  auto first = groups.limiter("g", clock);
  REQUIRE(first != nullptr);
  CHECK(groups.limiter("g", clock) == first);
  CHECK(groups.limiter("h", clock) != first);
  CHECK(groups.limiter("x", clock) == nullptr);
  CHECK(vm::make_limiter(std::nullopt, clock) == nullptr);
}
