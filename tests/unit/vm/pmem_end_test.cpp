#include "daemon/vm/pmem_end.h"

#include <cstring>
#include <filesystem>
#include <fstream>

#include <doctest/doctest.h>

#include "tests/unit/support/fake_clock.h"
#include "tests/unit/support/fake_device_events.h"
#include "tests/unit/support/fake_event_loop.h"
#include "tests/unit/support/fake_power.h"
#include "tests/unit/support/temp_dir.h"

using namespace vmmd;

namespace {

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

struct NoReclaim final : devices::MemoryReclaim {
  [[nodiscard]] std::uint64_t granularity() const override { return 4096; }
  Result<std::uint64_t> discard(devices::GuestAddress, std::uint64_t) override { return 0; }
};

struct Files {
  Files() {
    std::ofstream(path) << "what the file holds";
    std::filesystem::resize_file(path, 4 * kMiB);
    config.memory.size = 128 * kMiB;
    config.pmem.resize(1);
    config.pmem[0].file = path;
    config.pmem[0].pci.id = "p";
  }
  Result<std::unique_ptr<vm::HostEnd>> open() const { return vm::PmemEnd::open(config, 0); }
  std::string on_disk() const {
    std::string text(4, '?');
    std::ifstream(path).read(text.data(), 4);
    return text;
  }
  testing::TempDir dir;
  std::string path = dir / "image";
  api::VmConfig config;
};

}  // namespace

TEST_CASE("pmem: the size is the file's unless given, and from then on part of the configuration") {
  Files files;
  files.config.pmem.push_back(files.config.pmem[0]);
  files.config.pmem[1].size = 2 * kMiB;
  REQUIRE(vm::give_pmem_sizes(files.config));
  CHECK(files.config.pmem[0].size == 4 * kMiB);
  CHECK(files.config.pmem[1].size == 2 * kMiB);
}

TEST_CASE("pmem: what is written reaches the file, which is locked") {
  Files files;
  files.config.pmem[0].size = 4 * kMiB;
  const auto end = files.open();
  REQUIRE(end);
  const auto memory = (*end)->memory();
  REQUIRE(memory.size() == 1);
  CHECK(memory[0].start.value == std::uint64_t{1} << 32);
  CHECK(memory[0].size == 4 * kMiB);
  CHECK(std::memcmp(memory[0].host, "what", 4) == 0);
  std::memcpy(memory[0].host, "news", 4);
  CHECK(files.on_disk() == "news");
  const auto second = files.open();
  REQUIRE_FALSE(second);
  CHECK(second.error().code == ErrorCode::Conflict);
}

TEST_CASE("pmem: writes are discarded, the file shared, and a snapshot refused once there are any") {
  Files files;
  files.config.pmem[0].size = 4 * kMiB;
  files.config.pmem[0].discard_writes = true;
  const auto end = files.open();
  REQUIRE(end);
  CHECK(files.open());
  testing::FakeClock clock;
  testing::FakeEventLoop loop;
  testing::FakeDeviceEvents events;
  const devices::GuestMemory memory;
  NoReclaim reclaim;
  testing::FakePowerSink power;
  const auto device = (*end)->make_device({memory, clock, loop, events, reclaim, power});
  REQUIRE(device);
  std::byte* const host = (*end)->memory()[0].host;
  CHECK(std::memcmp(host, "what", 4) == 0);  // reading changes nothing
  CHECK(host[3 * kMiB] == std::byte{0});
  CHECK((*device)->save());
  std::memcpy(host, "news", 4);
  host[3 * kMiB] = std::byte{1};
  CHECK(files.on_disk() == "what");
  const auto refused = (*device)->save();
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == ErrorCode::NotSupported);
  CHECK(refused.error().to_string().find("written 2 pages of pmem \"p\"") != std::string::npos);
}

TEST_CASE("pmem: a file that has become too short is refused") {
  Files files;
  files.config.pmem[0].size = 6 * kMiB;
  const auto end = files.open();
  REQUIRE_FALSE(end);
  CHECK(end.error().to_string().find("4194304 bytes, fewer than 6291456") != std::string::npos);
}
