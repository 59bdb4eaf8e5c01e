#include "devices/storage/raw_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <fstream>
#include <string>

#include <doctest/doctest.h>

#include "tests/unit/support/fake_event_loop.h"
#include "tests/unit/support/temp_dir.h"

namespace vmmd::devices {
namespace {

constexpr std::size_t kSize = std::size_t{2} << 20;

struct Waiting : DiskRequest {
  bool finished = false;
};

int run(Disk& disk, testing::FakeEventLoop& loop, DiskOp op, std::uint64_t offset,
        std::vector<iovec> buffers) {
  Waiting request;
  request.op = op;
  request.offset = offset;
  for (const iovec& buffer : buffers) request.length += buffer.iov_len;
  request.buffers = std::move(buffers);
  request.done = [](DiskRequest& done) { static_cast<Waiting&>(done).finished = true; };
  disk.submit(request);
  disk.kick();
  REQUIRE(loop.run_until([&] { return request.finished; }));
  return request.error;
}

/// Memory at an address that is `odd` bytes beyond one that any device takes.
struct Memory {
  explicit Memory(std::size_t odd) : bytes(kSize + 4096 + odd, '\0') {
    const auto address = reinterpret_cast<std::uintptr_t>(bytes.data());
    data = bytes.data() + (4096 - address % 4096) + odd;
  }
  std::string bytes;
  char* data;
};

}  // namespace

TEST_CASE("direct I/O takes a guest's buffers wherever they are") {
  const testing::TempDir dir;
  const std::string path = dir / "image";
  std::string model(kSize, '\0');
  for (std::size_t i = 0; i < kSize; ++i) model[i] = static_cast<char>('a' + (i / 512 + i) % 26);
  for (const bool io_uring : {true, false}) {
    std::ofstream(path, std::ios::binary) << model;
    testing::FakeEventLoop loop;
    auto disk = RawFile::open(path, {.direct = true, .use_io_uring = io_uring});
    if (!disk) {
      MESSAGE("NOT TESTED: " << disk.error().to_string());
      return;
    }
    REQUIRE((*disk)->start(loop, nullptr));
    for (const std::size_t odd : {0U, 512U, 1U, 37U}) {
      CAPTURE(odd);
      Memory in(odd);
      // More than goes through the bounce buffer at once, in pieces that are no sectors.
      CHECK(run(**disk, loop, DiskOp::Read, 1536, {{in.data, 700}, {in.data + 700, (1 << 20) - 700}}) == 0);
      CHECK(std::string(in.data, 1 << 20) == model.substr(1536, 1 << 20));
      Memory out(odd);
      for (std::size_t i = 0; i < 600 * 1024; ++i)
        out.data[i] = static_cast<char>('A' + (i / 512 + i + odd) % 26);
      CHECK(run(**disk, loop, DiskOp::Write, 512, {{out.data, 1024}, {out.data + 1024, 599 * 1024}}) == 0);
      model.replace(512, 600 * 1024, out.data, 600 * 1024);
    }
    CHECK(run(**disk, loop, DiskOp::Flush, 0, {}) == 0);
    (*disk)->stop();
    std::ifstream back(path, std::ios::binary);
    const std::string content{std::istreambuf_iterator<char>(back), {}};
    CHECK(content == model);
  }
}

TEST_CASE("a large request by system calls leaves the loop its turns") {
  const testing::TempDir dir;
  const std::size_t size = std::size_t{32} << 20;
  std::ofstream(dir / "image") << "first";
  std::filesystem::resize_file(dir / "image", size);
  testing::FakeEventLoop loop;
  auto disk = RawFile::open(dir / "image", {.use_io_uring = false});
  REQUIRE(disk);
  REQUIRE((*disk)->start(loop, nullptr));
  std::string bytes(std::size_t{1} << 20, '?');
  Waiting request;
  request.op = DiskOp::Read;
  request.length = size;
  request.buffers.assign(32, iovec{bytes.data(), bytes.size()});
  request.done = [](DiskRequest& done) { static_cast<Waiting&>(done).finished = true; };
  (*disk)->submit(request);
  (*disk)->kick();
  unsigned turns = 0;
  while (!request.finished) {
    REQUIRE(loop.run_once());
    ++turns;
  }
  CHECK(request.error == 0);
  CHECK(request.progress == size);
  CHECK(turns == 8);
  (*disk)->stop();
}

TEST_CASE("an image is not asked to answer without waiting") {
  const testing::TempDir dir;
  std::ofstream(dir / "image") << std::string(4096, 'x');
  const auto disk = RawFile::open(dir / "image", {});
  REQUIRE(disk);
  CHECK((::fcntl((*disk)->fd(), F_GETFL) & O_NONBLOCK) == 0);
}

TEST_CASE("a request that the ring will not wait for is served by a system call, once") {
  // A pipe without data is what answers EAGAIN for ever; to a system call it says that it does not seek.
  std::array<int, 2> ends{};
  REQUIRE(::pipe2(ends.data(), O_CLOEXEC) == 0);
  const UniqueFd writer(ends[1]);
  testing::FakeEventLoop loop;
  auto disk = RawFile::adopt(UniqueFd(ends[0]), "pipe", {.nowait = true});
  REQUIRE(disk);
  if (!(*disk)->uses_io_uring()) {
    MESSAGE("NOT TESTED: no io_uring");
    return;
  }
  REQUIRE((*disk)->start(loop, nullptr));
  std::array<char, 512> bytes{};
  Waiting request;
  request.op = DiskOp::Read;
  request.length = bytes.size();
  request.buffers = {{bytes.data(), bytes.size()}};
  request.done = [](DiskRequest& done) { static_cast<Waiting&>(done).finished = true; };
  (*disk)->submit(request);
  (*disk)->kick();
  unsigned turns = 0;
  REQUIRE(loop.run_until([&] { return request.finished || ++turns > 100; }));
  CHECK(request.finished);
  CHECK(request.error == ESPIPE);
  (*disk)->stop();
}

}  // namespace vmmd::devices
