#include "devices/storage/overlay.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <functional>
#include <random>
#include <string>

#include <doctest/doctest.h>

#include "base/file.h"
#include "tests/unit/support/fake_event_loop.h"
#include "tests/unit/support/temp_dir.h"

namespace {

/// Called before each fdatasync() by system call; for the test that sets it.
std::function<void()> before_fdatasync;

}  // namespace

// The program's own definition is taken before libc's.
extern "C" int fdatasync(int fd) {
  if (before_fdatasync) before_fdatasync();
  return static_cast<int>(::syscall(SYS_fdatasync, fd));
}

namespace vmmd::devices {
namespace {

constexpr std::uint64_t kSectors = 40'000;  // more than a page of the map
constexpr std::uint64_t kSize = kSectors * 512;

std::string base_bytes() {
  std::string bytes(kSize, '\0');
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>('a' + (i / 512 + i) % 26);
  return bytes;
}

struct Host {
  Host() { std::ofstream(dir / "base", std::ios::binary) << base_bytes(); }
  std::unique_ptr<Disk> base() const {
    auto file = RawFile::open(dir / "base", {.readonly = true});
    REQUIRE(file);
    return std::move(*file);
  }
  std::unique_ptr<Overlay> in_memory(std::unique_ptr<FrozenLayer> lower = nullptr,
                                     std::optional<std::uint64_t> limit = std::nullopt) const {
    auto overlay = Overlay::in_memory(base(), std::move(lower), limit);
    REQUIRE(overlay);
    return std::move(*overlay);
  }
  std::unique_ptr<Overlay> in_file() const {
    auto overlay = Overlay::in_file(base(), dir / "layer");
    REQUIRE(overlay);
    return std::move(*overlay);
  }
  std::unique_ptr<FrozenLayer> freeze(const Overlay& overlay, const std::string& name) const {
    UniqueFd out(::open((dir / name).c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    REQUIRE(overlay.save(out.get(), name));
    auto layer = FrozenLayer::open(std::move(out), name, kSize);
    REQUIRE(layer);
    return std::move(*layer);
  }
  std::string base_now() const {
    std::ifstream in(dir / "base", std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  int first_map_byte() const {
    std::ifstream in(dir / "layer", std::ios::binary);
    in.seekg(4096);
    return in.get();
  }
  testing::TempDir dir;
};

/// A disk that runs, one request at a time.
struct Driver {
  explicit Driver(Disk& d) : disk(d) { REQUIRE(disk.start(loop, nullptr)); }
  ~Driver() { disk.stop(); }
  int run(DiskRequest& request) {
    struct Waiting : DiskRequest {
      bool finished = false;
    };
    Waiting waiting;
    static_cast<DiskRequest&>(waiting) = request;
    waiting.done = [](DiskRequest& done) { static_cast<Waiting&>(done).finished = true; };
    disk.submit(waiting);
    CHECK_FALSE(waiting.finished);
    disk.kick();
    REQUIRE(loop.run_until([&] { return waiting.finished; }));
    return waiting.error;
  }
  int transfer(DiskOp op, std::uint64_t sector, std::string& bytes, bool sync = false) {
    DiskRequest request;
    request.op = op;
    request.sync = sync;
    request.offset = sector * 512;
    request.length = bytes.size();
    const std::size_t cut = bytes.size() / 3;  // in the middle of a sector
    request.buffers = {{bytes.data(), cut}, {bytes.data() + cut, bytes.size() - cut}};
    return run(request);
  }
  int write(std::uint64_t sector, std::string bytes, bool sync = false) {
    return transfer(DiskOp::Write, sector, bytes, sync);
  }
  int range(DiskOp op, std::uint64_t sector, std::uint64_t count) {
    DiskRequest request;
    request.op = op;
    request.offset = sector * 512;
    request.length = count * 512;
    return run(request);
  }
  std::string read(std::uint64_t sector, std::uint64_t count) {
    std::string bytes(count * 512, '?');
    CHECK(transfer(DiskOp::Read, sector, bytes) == 0);
    return bytes;
  }
  Disk& disk;
  testing::FakeEventLoop loop;
};

/// Writes, zeroes and discards at random, and the same in `model`; reads compare.
void scribble(Driver& driver, std::string& model, unsigned seed) {
  std::mt19937 random(seed);
  for (unsigned step = 0; step < 300; ++step) {
    const std::uint64_t count = 1 + random() % (step % 10 == 0 ? 600 : 20);
    const std::uint64_t sector = random() % (kSectors - count);
    char* at = model.data() + sector * 512;
    switch (random() % 6) {
      case 0:
      case 1: {
        const std::string bytes(count * 512, static_cast<char>('A' + random() % 26));
        CHECK(driver.write(sector, bytes, random() % 4 == 0) == 0);
        std::memcpy(at, bytes.data(), bytes.size());
        break;
      }
      case 2:
        CHECK(driver.range(random() % 2 == 0 ? DiskOp::Discard : DiskOp::WriteZeroes, sector, count) == 0);
        std::memset(at, 0, count * 512);
        break;
      case 3:
        CHECK(driver.range(DiskOp::Flush, 0, 0) == 0);
        break;
      default:
        CHECK(driver.read(sector, count) == std::string(at, count * 512));
    }
  }
}

}  // namespace

TEST_CASE("an overlay in memory reads what was written, and the image below stays as it was") {
  const Host host;
  const auto overlay = host.in_memory();
  std::string model = base_bytes();
  Driver driver(*overlay);
  scribble(driver, model, 1);
  CHECK(driver.read(0, kSectors) == model);
  CHECK(host.base_now() == base_bytes());
}

TEST_CASE("an overlay goes on over the layer that was saved, generation after generation") {
  const Host host;
  std::string model = base_bytes();
  std::unique_ptr<FrozenLayer> layer;
  for (unsigned generation = 0; generation < 4; ++generation) {
    const auto overlay = host.in_memory(std::move(layer));
    {
      Driver driver(*overlay);
      CHECK(driver.read(0, kSectors) == model);
      scribble(driver, model, 10 + generation);
    }
    layer = host.freeze(*overlay, "gen" + std::to_string(generation));
  }
  const auto last = host.in_memory(std::move(layer));
  Driver driver(*last);
  CHECK(driver.read(0, kSectors) == model);
}

TEST_CASE("two overlays of one layer never meet") {
  const Host host;
  const auto first = host.in_memory();
  {
    Driver driver(*first);
    CHECK(driver.write(7, std::string(512, 'S')) == 0);
  }
  const auto one = host.in_memory(host.freeze(*first, "layer"));
  const auto two = host.in_memory(host.freeze(*first, "layer2"));
  Driver a(*one);
  Driver b(*two);
  CHECK(a.write(8, std::string(512, 'A')) == 0);
  CHECK(b.write(7, std::string(1024, 'B')) == 0);
  CHECK(a.read(7, 2) == std::string(512, 'S') + std::string(512, 'A'));
  CHECK(b.read(7, 2) == std::string(1024, 'B'));
}

TEST_CASE("a saved layer is as large as what was written") {
  const Host host;
  const auto overlay = host.in_memory();
  {
    Driver driver(*overlay);
    CHECK(driver.write(100, std::string(8192, 'W')) == 0);
    CHECK(driver.range(DiskOp::Discard, 1000, 30000) == 0);
  }
  const auto layer = host.freeze(*overlay, "layer");
  CHECK(std::filesystem::file_size(host.dir / "layer") == 4096 + 8192);
  CHECK(layer->run(0, 200).sectors == 100);
  CHECK(layer->run(100, 200).here);
  CHECK(layer->run(1000, kSectors - 1000).sectors == 30000);
}

TEST_CASE("a layer is not saved any further once that is cancelled") {
  const Host host;
  const auto overlay = host.in_memory();
  CHECK(Driver(*overlay).write(100, std::string(8192, 'W')) == 0);
  std::stop_source stop;
  stop.request_stop();
  const UniqueFd out(::memfd_create("layer", MFD_CLOEXEC));
  const Status saved = overlay->save(out.get(), "layer", stop.get_token());
  REQUIRE_FALSE(saved);
  CHECK(saved.error().code == ErrorCode::Conflict);
  std::array<char, 1> first{};
  CHECK(::pread(out.get(), first.data(), 1, 4096) == 1);  // sized, but not filled
  CHECK(first[0] == 0);
}

TEST_CASE("an overlay in memory is full at its limit, and room comes back with a discard") {
  const Host host;
  const auto overlay = host.in_memory(nullptr, 16384);
  Driver driver(*overlay);
  CHECK(driver.write(0, std::string(12288, 'x')) == 0);
  CHECK(driver.write(800, std::string(8192, 'y')) == ENOSPC);
  CHECK(driver.read(800, 16) == base_bytes().substr(800 * 512, 8192));
  CHECK(driver.write(0, std::string(12288, 'z')) == 0);
  CHECK(driver.write(1600, std::string(4096, 'y')) == 0);
  CHECK(driver.write(0, std::string(16384, 'z')) == ENOSPC);
  CHECK(driver.range(DiskOp::Discard, 0, 16) == 0);
  CHECK(driver.write(800, std::string(8192, 'y')) == 0);
}

TEST_CASE("writes that are in flight together do not pass the limit of an overlay in memory") {
  const Host host;
  const auto overlay = host.in_memory(nullptr, 16384);
  Driver driver(*overlay);
  struct Write : DiskRequest {
    bool finished = false;
  };
  std::string bytes(8192, 'w');
  std::array<Write, 6> batch;
  const auto submit = [&](std::size_t from, std::size_t to) {
    for (std::size_t i = from; i < to; ++i) {
      Write& write = batch.at(i);
      write.op = DiskOp::Write;
      write.offset = 65536 * i;
      write.length = bytes.size();
      write.buffers = {{bytes.data(), bytes.size()}};
      write.done = [](DiskRequest& done) { static_cast<Write&>(done).finished = true; };
      overlay->submit(write);
    }
    overlay->kick();
    for (std::size_t i = from; i < to; ++i)
      REQUIRE(driver.loop.run_until([&] { return batch.at(i).finished; }));
  };
  submit(0, 5);
  CHECK(batch[0].error == 0);
  CHECK(batch[1].error == 0);
  for (std::size_t i = 2; i < 5; ++i) CHECK(batch.at(i).error == ENOSPC);
  // What was reserved is free again once it is written or refused: a discard makes room for one more.
  CHECK(driver.range(DiskOp::Discard, 0, 16) == 0);
  submit(5, 6);
  CHECK(batch[5].error == 0);
  CHECK(driver.write(0, bytes) == ENOSPC);
}

TEST_CASE("an overlay in a file is there again after it was closed") {
  const Host host;
  std::string model = base_bytes();
  for (unsigned life = 0; life < 3; ++life) {
    const auto overlay = host.in_file();
    Driver driver(*overlay);
    CHECK(driver.read(0, kSectors) == model);
    scribble(driver, model, 20 + life);
  }
  CHECK(host.base_now() == base_bytes());
}

TEST_CASE("what an overlay's file says it holds was flushed before") {
  const Host host;
  const auto overlay = host.in_file();
  Driver driver(*overlay);
  CHECK(driver.write(0, std::string(512, 'x')) == 0);
  CHECK(host.first_map_byte() == 0);
  CHECK(driver.range(DiskOp::Flush, 0, 0) == 0);
  CHECK(host.first_map_byte() == 1);
  CHECK(driver.write(1, std::string(512, 'x'), /*sync=*/true) == 0);
  CHECK(host.first_map_byte() == 3);
}

TEST_CASE("a flush makes no bit durable of a write that was done while the data was flushed") {
  const Host host;
  const auto overlay = host.in_file();
  Driver driver(*overlay);
  CHECK(driver.write(0, std::string(512, 'x')) == 0);
  struct Waiting : DiskRequest {
    bool finished = false;
  };
  std::string bytes(512, 'y');
  std::array<Waiting, 3> requests;
  for (Waiting& each : requests)
    each.done = [](DiskRequest& done) { static_cast<Waiting&>(done).finished = true; };
  auto& [flush, write, second] = requests;
  flush.op = second.op = DiskOp::Flush;
  write.op = DiskOp::Write;
  write.offset = 512;
  write.length = bytes.size();
  write.buffers = {{bytes.data(), bytes.size()}};
  // With io_uring the write is done first: a flush leaves the thread that asks for it.
  overlay->submit(flush);
  overlay->submit(write);
  overlay->kick();
  REQUIRE(driver.loop.run_until([&] { return flush.finished && write.finished; }));
  CHECK(flush.error == 0);
  CHECK(host.first_map_byte() == 1);
  // Those that come while one is flushing share the next.
  flush.finished = false;
  overlay->submit(flush);
  overlay->submit(second);
  overlay->kick();
  REQUIRE(driver.loop.run_until([&] { return flush.finished && second.finished; }));
  CHECK(host.first_map_byte() == 3);
}

TEST_CASE("an overlay's file that is stopped says what it holds once that is durable") {
  const Host host;
  const auto overlay = host.in_file();
  std::vector<int> before;
  {
    Driver driver(*overlay);
    CHECK(driver.write(0, std::string(512, 'x')) == 0);
    before_fdatasync = [&] { before.push_back(host.first_map_byte()); };
  }
  CHECK(before == std::vector<int>{0});
  CHECK(host.first_map_byte() == 1);
  {
    const Driver unchanged(*overlay);
  }
  CHECK(before.size() == 1);
  before_fdatasync = nullptr;
}

TEST_CASE("a file that is not this disk's overlay is left alone and named") {
  const Host host;
  std::ofstream(host.dir / "layer") << std::string(9000, 'n');
  const auto other = Overlay::in_file(host.base(), host.dir / "layer");
  REQUIRE_FALSE(other);
  CHECK(other.error().to_string().find("is not an overlay that this vmmd made") != std::string::npos);
  std::filesystem::remove(host.dir / "layer");
  {
    const auto made = host.in_file();
  }
  std::filesystem::resize_file(host.dir / "base", 512);
  const auto changed = Overlay::in_file(host.base(), host.dir / "layer");
  REQUIRE_FALSE(changed);
  CHECK(changed.error().to_string().find("is for a disk of 20480000 bytes") != std::string::npos);
}

TEST_CASE("one overlay file belongs to one disk at a time") {
  const Host host;
  const auto first = host.in_file();
  const auto second = Overlay::in_file(host.base(), host.dir / "layer");
  REQUIRE_FALSE(second);
  CHECK(second.error().code == ErrorCode::Conflict);
}

TEST_CASE("no damage to a saved layer's header or table is taken for a layer") {
  const Host host;
  const auto overlay = host.in_memory();
  {
    Driver driver(*overlay);
    CHECK(driver.write(3, std::string(512, '1')) == 0);
    CHECK(driver.range(DiskOp::Discard, 8, 8) == 0);
    CHECK(driver.write(20, std::string(512, '2')) == 0);
  }
  static_cast<void>(host.freeze(*overlay, "layer"));
  std::ifstream in(host.dir / "layer", std::ios::binary);
  const std::string good{std::istreambuf_iterator<char>(in), {}};
  const auto opens = [&](const std::string& bytes) {
    UniqueFd fd(::memfd_create("layer", MFD_CLOEXEC));
    REQUIRE(write_all_at(fd.get(), std::as_bytes(std::span(bytes)), 0, "layer"));
    return FrozenLayer::open(std::move(fd), "layer", kSize).has_value();
  };
  CHECK(opens(good));
  CHECK_FALSE(opens(good.substr(0, good.size() - 1)));
  CHECK_FALSE(opens(good.substr(0, 20)));
  CHECK_FALSE(opens(good + "x"));
  const auto with = [&](std::size_t at, std::uint64_t value) {
    std::string bytes = good;
    std::memcpy(bytes.data() + at, &value, sizeof value);
    return opens(bytes);
  };
  CHECK_FALSE(with(0, 0));                   // magic
  CHECK_FALSE(with(16, kSize + 512));        // another disk
  CHECK_FALSE(with(24, ~std::uint64_t{0}));  // extents
  CHECK_FALSE(with(24, 2));
  CHECK_FALSE(with(32, kSectors));           // first extent: sector beyond the disk
  CHECK_FALSE(with(32, 9));                  // after the second
  CHECK_FALSE(with(40, 0));                  // empty
  CHECK_FALSE(with(40, ~std::uint64_t{0}));  // beyond the disk
  CHECK_FALSE(with(40, 6));                  // into the second
  CHECK_FALSE(with(48, 8192));               // data elsewhere
}

TEST_CASE("a sparse file that claims more extents than memory holds is refused, not read") {
  constexpr std::uint64_t kDisk = std::uint64_t{8} << 40;
  struct {
    char magic[8] = {'v', 'm', 'm', 'd', 'l', 'a', 'y', 'r'};
    std::uint32_t version = 1;
    std::uint32_t reserved = 0;
    std::uint64_t disk_size = kDisk;
    std::uint64_t extents = 0;
  } header;
  const auto opened = [&](std::uint64_t extents) {
    header.extents = extents;
    UniqueFd fd(::memfd_create("layer", MFD_CLOEXEC));
    REQUIRE(::ftruncate(fd.get(), static_cast<off_t>(std::uint64_t{32} << 40)) == 0);
    REQUIRE(write_all_at(fd.get(), std::as_bytes(std::span(&header, 1)), 0, "layer"));
    const auto layer = FrozenLayer::open(std::move(fd), "layer", kDisk);
    REQUIRE_FALSE(layer);
    return layer.error().to_string();
  };
  CHECK(opened(kDisk / 512).find("its table is not one") != std::string::npos);  // 400 GiB of them
  CHECK(opened(kDisk / 512 + 1).find("its table does not fit it") != std::string::npos);
}

}  // namespace vmmd::devices
