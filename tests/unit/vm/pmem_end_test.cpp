#include "daemon/vm/pmem_end.h"

#include <sys/mman.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>

#include <doctest/doctest.h>

#include "base/file.h"
#include "tests/unit/support/temp_dir.h"

using namespace vmmd;

namespace {

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

struct Files {
  Files() {
    std::ofstream(path) << "what the file holds";
    std::filesystem::resize_file(path, 4 * kMiB);
    config.memory.size = 128 * kMiB;
    config.pmem.resize(1);
    config.pmem[0].file = path;
    config.pmem[0].pci.id.emplace("p");
  }
  void discard_writes() {
    config.pmem[0].size = 4 * kMiB;
    config.pmem[0].discard_writes = true;
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

TEST_CASE("pmem: writes are discarded, and the file is shared") {
  Files files;
  files.discard_writes();
  const auto end = files.open();
  REQUIRE(end);
  CHECK(files.open());
  std::memcpy((*end)->memory()[0].host, "news", 4);
  CHECK(files.on_disk() == "what");
}

TEST_CASE("pmem: discarded writes come back from a snapshot's file, those of the next generation too") {
  Files files;
  files.discard_writes();
  vm::SnapshotFiles saved;
  for (const char* text : {"news", "more"}) {
    const bool first = saved.empty();
    const auto end = first ? files.open() : vm::PmemEnd::open(files.config, 0, &saved);
    REQUIRE(end);
    CHECK(saved.empty());
    std::byte* const host = (*end)->memory()[0].host;
    if (!first) {
      CHECK(std::memcmp(host, "news", 4) == 0);
      CHECK(std::memcmp(host + 4, " the file", 9) == 0);
      CHECK(host[3 * kMiB + 7] == std::byte{0x71});
    }
    std::memcpy(host, text, 4);
    host[3 * kMiB + 7] = std::byte{0x71};
    std::memset(host + kMiB, 0, 1);  // written, though nothing changes
    CHECK((*end)->snapshot_file() == "pmem-p.bin");
    UniqueFd file(::memfd_create("pages", MFD_CLOEXEC));
    REQUIRE((*end)->save_file(file.get(), {}));
    CHECK(*file_size(file.get(), "pages") == 4 * 4096);  // three pages behind their list
    saved["pmem-p.bin"] = std::move(file);
  }
  const auto last = vm::PmemEnd::open(files.config, 0, &saved);
  REQUIRE(last);
  CHECK(std::memcmp((*last)->memory()[0].host, "more", 4) == 0);
  CHECK(files.on_disk() == "what");
}

TEST_CASE("pmem: pages come back where the list of them is read in several pieces") {
  constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;
  Files files;
  std::filesystem::resize_file(files.path, 4 * kGiB);
  files.config.pmem[0].size = 4 * kGiB;
  files.config.pmem[0].discard_writes = true;
  const std::uint64_t places[] = {0, 2 * kGiB - 4096, 2 * kGiB, 4 * kGiB - 4096};
  vm::SnapshotFiles saved;
  {
    const auto end = files.open();
    REQUIRE(end);
    for (std::size_t i = 0; i < 4; ++i)
      (*end)->memory()[0].host[places[i]] = std::byte{static_cast<unsigned char>(0x41 + i)};
    UniqueFd file(::memfd_create("pages", MFD_CLOEXEC));
    REQUIRE((*end)->save_file(file.get(), {}));
    saved["pmem-p.bin"] = std::move(file);
  }
  const auto restored = vm::PmemEnd::open(files.config, 0, &saved);
  REQUIRE(restored);
  for (std::size_t i = 0; i < 4; ++i)
    CHECK((*restored)->memory()[0].host[places[i]] == std::byte{static_cast<unsigned char>(0x41 + i)});
}

TEST_CASE("pmem: pages are not written once the snapshot is cancelled") {
  Files files;
  files.discard_writes();
  const auto end = files.open();
  REQUIRE(end);
  (*end)->memory()[0].host[0] = std::byte{1};
  std::stop_source stop;
  stop.request_stop();
  const UniqueFd file(::memfd_create("pages", MFD_CLOEXEC));
  const Status saved = (*end)->save_file(file.get(), stop.get_token());
  REQUIRE_FALSE(saved);
  CHECK(saved.error().to_string() == "writing pmem-p.bin was cancelled");
}

TEST_CASE("pmem: a snapshot's file that is damaged, or another's, is refused") {
  Files files;
  files.discard_writes();
  std::string good(std::size_t{2} * 4096, '\0');
  {
    const auto end = files.open();
    REQUIRE(end);
    (*end)->memory()[0].host[std::size_t{5} * 4096] = std::byte{1};
    const UniqueFd file(::memfd_create("pages", MFD_CLOEXEC));
    REQUIRE((*end)->save_file(file.get(), {}));
    REQUIRE(read_exact_at(file.get(), std::as_writable_bytes(std::span(good)), 0, "pages"));
  }
  const auto opens = [&files](std::string_view content) {
    UniqueFd file(::memfd_create("pages", MFD_CLOEXEC));
    REQUIRE(write_all_at(file.get(), std::as_bytes(std::span(content)), 0, "pages"));
    vm::SnapshotFiles saved;
    saved["pmem-p.bin"] = std::move(file);
    return vm::PmemEnd::open(files.config, 0, &saved).has_value();
  };
  CHECK(opens(good));
  CHECK_FALSE(opens(""));
  CHECK_FALSE(opens(std::string_view(good).substr(0, 20)));
  CHECK_FALSE(opens(std::string_view(good).substr(0, 4096)));
  std::string longer = good;
  longer.resize(longer.size() + 1);
  CHECK_FALSE(opens(longer));
  for (const std::size_t at : {std::size_t{0}, std::size_t{10}, std::size_t{16}}) {  // magic, length, pages
    CAPTURE(at);
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 0x02);
    CHECK_FALSE(opens(bad));
  }
  vm::SnapshotFiles none;
  CHECK_FALSE(vm::PmemEnd::open(files.config, 0, &none));
}

TEST_CASE("pmem: what is kept in its file is no snapshot's") {
  Files files;
  files.config.pmem[0].size = 4 * kMiB;
  const auto end = files.open();
  REQUIRE(end);
  CHECK((*end)->snapshot_file().empty());
}

TEST_CASE("pmem: a file that has become too short is refused") {
  Files files;
  files.config.pmem[0].size = 6 * kMiB;
  const auto end = files.open();
  REQUIRE_FALSE(end);
  CHECK(end.error().to_string().find("4194304 bytes, fewer than 6291456") != std::string::npos);
}
