#include "daemon/snapshot/format/open.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "daemon/snapshot/format/manifest.h"
#include "tests/unit/snapshot/fixture.h"

using namespace vmmd;
using namespace vmmd::snapshot;
using namespace vmmd::snapshot::test;
namespace fs = std::filesystem;

namespace {

Error refusal(const fs::path& path) {
  auto snapshot = open_snapshot(path);
  REQUIRE_FALSE(snapshot);
  return snapshot.error();
}

/// Flips every byte of a file of the snapshot in turn; returns how many flips were accepted.
std::size_t accepted_flips(const fs::path& path, const char* name) {
  const std::string good = read_text(path / name);
  std::size_t accepted = 0;
  for (std::size_t at = 0; at < good.size(); ++at) {
    flip_byte(path / name, at);
    if (open_snapshot(path)) ++accepted;
    flip_byte(path / name, at);
  }
  CHECK(open_snapshot(path));
  return accepted;
}

/// All that this process has read so far, from wherever. Reading this counts, too.
std::uint64_t bytes_read() {
  std::ifstream io("/proc/self/io");
  std::string name;
  std::uint64_t bytes = 0;
  io >> name >> bytes;
  REQUIRE(name == "rchar:");
  return bytes;
}

}  // namespace

TEST_CASE("opening a snapshot of 64 GiB reads no more than opening one of 256 MiB") {
  const TempDir dir;
  publish_sample(dir / "small", {.memory_size = 256 * kMiB});
  publish_sample(dir / "large", {.memory_size = 64 * 1024 * kMiB});
  std::uint64_t before = bytes_read();
  REQUIRE(open_snapshot(dir / "small"));
  const std::uint64_t small = bytes_read() - before;
  before = bytes_read();
  REQUIRE(open_snapshot(dir / "large"));
  const std::uint64_t large = bytes_read() - before;
  // Three files and what the counter costs; numbers in the manifest are a few bytes longer.
  const auto files = fs::file_size(dir / "small/manifest.bin") + fs::file_size(dir / "small/state.bin");
  CHECK(small > files);
  CHECK(large < small + 256);
}

TEST_CASE("a snapshot is opened as it was written") {
  const TempDir dir;
  publish_sample(dir / "one");
  const auto snapshot = open_snapshot(dir / "one");
  REQUIRE_MESSAGE(snapshot, snapshot.error().to_string());
  CHECK(snapshot->config == Sample().config);
  CHECK(snapshot->state.units_size() == 4);
  CHECK(snapshot->state.units(3).name() == "serial0");
  CHECK(snapshot->manifest.capture_mode() == CAPTURE_MODE_COPY);
  CHECK(snapshot->manifest.units(3).version() == 4);
  CHECK(snapshot->manifest.created_at().seconds() > 1'700'000'000);
  std::byte byte = {};
  REQUIRE(::pread(snapshot->memory.get(), &byte, 1, 4 * kMiB + 5) == 1);
  CHECK(byte == sample_byte(4 * kMiB + 5));
}

TEST_CASE("memory.bin cannot be written through a snapshot opened to read") {
  const TempDir dir;
  publish_sample(dir / "one");
  const auto reading = open_snapshot(dir / "one");
  REQUIRE(reading);
  CHECK(::pwrite(reading->memory.get(), "x", 1, 0) == -1);
  const auto writing = open_snapshot(dir / "one", {.writable_memory = true});
  REQUIRE(writing);
  CHECK(::pwrite(writing->memory.get(), "x", 1, 0) == 1);
}

TEST_CASE("the directory may be named through a symbolic link") {
  const TempDir dir;
  publish_sample(dir / "one");
  fs::create_directory_symlink("one", dir / "latest");
  CHECK(open_snapshot(dir / "latest"));
}

TEST_CASE("a moved or copied snapshot opens") {
  const TempDir dir;
  publish_sample(dir / "one");
  fs::rename(dir / "one", dir / "two");
  fs::copy(dir / "two", dir / "three");
  CHECK(open_snapshot(dir / "two"));
  CHECK(open_snapshot(dir / "three"));
}

TEST_CASE("nothing, a file, an empty directory are no snapshots") {
  const TempDir dir;
  write_text(dir / "file", "x");
  fs::create_directory(dir / "empty");
  CHECK(refusal(dir / "none").code == ErrorCode::NotFound);
  CHECK(says(refusal(dir / "file"), "not a directory"));
  CHECK(says(refusal(dir / "empty"), "it is not a snapshot directory: it has no manifest.bin"));
  write_text(dir / "empty" / "state.bin", "x");
  const Error error = refusal(dir / "empty");
  for (const char* name : {"manifest.bin", "memory.bin", "config.json"}) {
    CHECK(says(error, std::string(name) + " is missing"));
  }
}

TEST_CASE("every flipped byte of manifest, state and config is refused") {
  const TempDir dir;
  publish_sample(dir / "one");
  CHECK(accepted_flips(dir / "one", "manifest.bin") == 0);
  CHECK(accepted_flips(dir / "one", "state.bin") == 0);
  CHECK(accepted_flips(dir / "one", "config.json") == 0);
}

TEST_CASE("a file of another length is refused") {
  const TempDir dir;
  publish_sample(dir / "one");
  for (const char* name : {"manifest.bin", "state.bin", "config.json", "memory.bin", "memory.digests"}) {
    const fs::path file = dir / "one" / name;
    const auto size = fs::file_size(file);
    for (const auto other : {size - 1, size + 1, std::uintmax_t{0}}) {
      const std::string content = read_text(file);
      fs::resize_file(file, other);
      CHECK_MESSAGE(says(refusal(dir / "one"), name), name);
      write_text(file, content);
    }
  }
  CHECK(open_snapshot(dir / "one"));
}

TEST_CASE("a missing file is refused by name") {
  for (const char* name : {"manifest.bin", "state.bin", "config.json", "memory.bin", "memory.digests"}) {
    const TempDir dir;
    publish_sample(dir / "one");
    fs::remove(dir / "one" / name);
    CHECK(says(refusal(dir / "one"), std::string(name) + " is missing"));
  }
}

TEST_CASE("an edited config.json is refused with a hint") {
  const TempDir dir;
  publish_sample(dir / "one");
  write_text(dir / "one/config.json", R"({"cpus":{"boot_vcpus":4}})");
  CHECK(says(refusal(dir / "one"), "vmm-remote snapshot seal"));
}

TEST_CASE("all that is wrong is said at once") {
  const TempDir dir;
  publish_sample(dir / "one");
  flip_byte(dir / "one/state.bin", 3);
  flip_byte(dir / "one/config.json", 3);
  fs::resize_file(dir / "one/memory.bin", 4096);
  fs::remove(dir / "one/memory.digests");
  CHECK(refusal(dir / "one").messages.size() == 5);
}

TEST_CASE("files that are no regular files are refused, and nothing waits for them") {
  for (const char* name : {"manifest.bin", "state.bin", "config.json", "memory.bin", "memory.digests"}) {
    const TempDir dir;
    publish_sample(dir / "one");
    const fs::path file = dir / "one" / name;
    fs::rename(file, dir / "aside");
    SUBCASE("a symbolic link, even to the right content") {
      fs::create_symlink(dir / "aside", file);
      CHECK(says(refusal(dir / "one"), std::string(name) + " is a symbolic link"));
    }
    SUBCASE("a FIFO without a writer") {
      REQUIRE(::mkfifo(file.c_str(), 0600) == 0);
      CHECK(says(refusal(dir / "one"), std::string(name) + " is a FIFO"));
    }
    SUBCASE("a directory") {
      fs::create_directory(file);
      CHECK(says(refusal(dir / "one"), std::string(name) + " is a directory"));
    }
    SUBCASE("a device") {
      if (::mknod(file.c_str(), S_IFCHR | 0600, 0x0103) != 0) return;  // needs root
      CHECK(says(refusal(dir / "one"), std::string(name) + " is a device"));
    }
  }
}

TEST_CASE("files of two generations of one VM are not mixed") {
  const TempDir dir;
  publish_sample(dir / "one");
  publish_sample(dir / "two", {.config = R"({"cpus":{"boot_vcpus":8}})", .unit_value = "\x08\x2B"});
  for (const char* name : {"manifest.bin", "state.bin", "config.json"}) {
    const std::string own = read_text(dir / "one" / name);
    write_text(dir / "one" / name, read_text(dir / "two" / name));
    CHECK_MESSAGE(!open_snapshot(dir / "one"), name);
    write_text(dir / "one" / name, own);
  }
  CHECK(open_snapshot(dir / "one"));
}

TEST_CASE("memory.bin of another generation is refused where the filesystem keeps attributes") {
  const TempDir dir;
  publish_sample(dir / "one");
  publish_sample(dir / "two");
  const bool keeps = ::setxattr((dir / "one/memory.bin").c_str(), "user.vmmd.test", "x", 1, 0) == 0;
  if (!keeps) return;
  fs::rename(dir / "two/memory.bin", dir / "one/memory.bin");
  CHECK(says(refusal(dir / "one"), "memory.bin belongs to snapshot"));
}

TEST_CASE("a manifest that lies about lengths allocates nothing for them") {
  const TempDir dir;
  publish_sample(dir / "one");
  auto manifest = decode_manifest(read_text(dir / "one/manifest.bin"));
  REQUIRE(manifest);
  for (File& file : *manifest->mutable_files()) {
    if (file.name() == "state.bin") file.set_length(kStateLimit);
  }
  write_text(dir / "one/manifest.bin", encode_manifest(*manifest));
  CHECK(says(refusal(dir / "one"), "state.bin has"));
}

TEST_CASE("an oversized manifest.bin is refused unread") {
  const TempDir dir;
  publish_sample(dir / "one");
  fs::resize_file(dir / "one/manifest.bin", kManifestLimit + 1);
  CHECK(says(refusal(dir / "one"), "at most"));
}

TEST_CASE("files that the manifest does not list are ignored") {
  const TempDir dir;
  publish_sample(dir / "one");
  write_text(dir / "one/.manifest.bin.vmmd-1-0123456789abcdef.partial", "left by a crash");
  write_text(dir / "one/notes.txt", "mine");
  CHECK(open_snapshot(dir / "one"));
}

TEST_CASE("a snapshot with problems is still inspected when its manifest is sound") {
  const TempDir dir;
  publish_sample(dir / "one");
  flip_byte(dir / "one/state.bin", 3);
  Problems problems;
  const auto snapshot = inspect_snapshot(dir / "one", {}, problems);
  REQUIRE(snapshot);
  CHECK(problems.messages().size() == 1);
  CHECK(snapshot->state.units_size() == 0);
  CHECK(snapshot->memory.valid());
}

TEST_CASE("digests of memory are optional, and checked when they are loaded") {
  const TempDir dir;
  publish_sample(dir / "without", {.digests = false});
  const auto without = open_snapshot(dir / "without");
  REQUIRE(without);
  const auto none = load_memory_digests(*without);
  REQUIRE_FALSE(none);
  CHECK(none.error().code == ErrorCode::NotFound);

  publish_sample(dir / "with");
  const auto with = open_snapshot(dir / "with");
  REQUIRE(with);
  CHECK(load_memory_digests(*with));
  flip_byte(dir / "with/memory.digests", 20);
  CHECK_FALSE(load_memory_digests(*with));
}

TEST_CASE("what locks of others would refuse is told without a lock, with the process") {
  const TempDir dir;
  publish_sample(dir / "one");
  const auto asks = open_snapshot(dir / "one");
  REQUIRE(asks);
  const std::string me = fmt::format("(pid {})", ::getpid());
  CHECK(probe_memory_lock(*asks, MemoryLock::Exclusive));
  {
    const auto other = open_snapshot(dir / "one");
    REQUIRE(other);
    REQUIRE(lock_memory(*other, MemoryLock::Shared));
    CHECK(probe_memory_lock(*asks, MemoryLock::Shared));
    const Status refused = probe_memory_lock(*asks, MemoryLock::Exclusive);
    REQUIRE_FALSE(refused);
    CHECK(says(refused.error(), "is in use by another VM " + me));
    CHECK(lock_memory(*asks, MemoryLock::Exclusive).error().messages == refused.error().messages);
    REQUIRE(lock_memory(*other, MemoryLock::Exclusive));
    CHECK(says(probe_memory_lock(*asks, MemoryLock::Shared).error(), "is in use by a shared restore " + me));
  }
  CHECK(probe_memory_lock(*asks, MemoryLock::Exclusive));  // and none of the questions left a lock
}

TEST_CASE("many may share memory.bin, or one may have it alone") {
  const TempDir dir;
  publish_sample(dir / "one");
  auto first = open_snapshot(dir / "one");
  auto second = open_snapshot(dir / "one");
  REQUIRE(first);
  REQUIRE(second);
  REQUIRE(lock_memory(*first, MemoryLock::Shared));
  CHECK(lock_memory(*second, MemoryLock::Shared));
  const Status refused = lock_memory(*first, MemoryLock::Exclusive);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == ErrorCode::Conflict);
  second->memory.reset();
  REQUIRE(lock_memory(*first, MemoryLock::Exclusive));
  auto third = open_snapshot(dir / "one");
  REQUIRE(third);
  CHECK_FALSE(lock_memory(*third, MemoryLock::Shared));
}
