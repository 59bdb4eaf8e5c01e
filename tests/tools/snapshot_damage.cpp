// snapshot-damage DIR SCRATCH [SEED]: damages copies of the snapshot DIR in every way below and opens each.
// What opens although it was damaged is printed as "harmful: …"; then one line of counts. Exit code 0 if
// everything was refused. DIR itself is only read.
//   - every byte of manifest.bin, state.bin, config.json and memory.digests: each bit flipped in turn by open
//     (memory.digests: by verify), every truncation length, and extensions
//   - memory.bin: 200 random flips, and truncations, extensions and holes, by open or verify
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "base/unique_fd.h"
#include "daemon/snapshot/format/layout.h"
#include "daemon/snapshot/format/open.h"
#include "daemon/snapshot/format/verify.h"

namespace {

using namespace vmmd;
namespace fs = std::filesystem;

std::uint64_t tried = 0;
std::uint64_t harmful = 0;

[[noreturn]] void stop(const std::string& what) {
  std::fprintf(stderr, "snapshot-damage: %s\n", what.c_str());
  std::exit(2);
}

std::string slurp(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) stop("cannot read " + path.native());
  return {std::istreambuf_iterator<char>(file), {}};
}

void spill(const fs::path& path, const std::string& bytes) {
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!fd || ::pwrite(fd.get(), bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()))
    stop("cannot write " + path.native());
}

bool opens(const fs::path& snapshot) {
  return snapshot::open_snapshot(snapshot).has_value();
}

bool verifies(const fs::path& snapshot) {
  const auto opened = snapshot::open_snapshot(snapshot);
  if (!opened) return false;
  const auto report = snapshot::verify_memory(*opened);
  return report && report->damaged.empty();
}

using Judge = bool (*)(const fs::path&);

void expect_refused(const fs::path& snapshot, Judge accepts, const std::string& what) {
  ++tried;
  if (!accepts(snapshot)) return;
  ++harmful;
  fmt::print("harmful: {}\n", what);
}

// Every bit of every byte, without writing the whole file anew each time.
void flip_all(const fs::path& snapshot, std::string_view name, Judge accepts) {
  const fs::path path = snapshot / name;
  const std::string good = slurp(path);
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  const auto put = [&](std::size_t at, char byte) {
    if (::pwrite(fd.get(), &byte, 1, static_cast<off_t>(at)) != 1) stop("cannot write " + path.native());
  };
  for (std::size_t at = 0; at < good.size(); ++at) {
    for (unsigned bit = 0; bit < 8; ++bit) {
      put(at, static_cast<char>(static_cast<unsigned char>(good[at]) ^ (1u << bit)));
      expect_refused(snapshot, accepts, fmt::format("{} byte {} bit {}", name, at, bit));
    }
    put(at, good[at]);
  }
}

void resize_all(const fs::path& snapshot, std::string_view name) {
  const fs::path path = snapshot / name;
  const std::string good = slurp(path);
  for (std::size_t length = 0; length < good.size(); ++length) {
    spill(path, good.substr(0, length));
    expect_refused(snapshot, opens, fmt::format("{} cut to {} bytes", name, length));
  }
  for (const std::string& tail : {std::string(1, '\0'), std::string("\n"), std::string(4096, '\0'), good}) {
    spill(path, good + tail);
    expect_refused(snapshot, opens, fmt::format("{} with {} bytes more", name, tail.size()));
  }
  spill(path, good);
}

// Where memory.bin has data; a flip may also fall into a hole, which then is none any more.
void damage_memory(const fs::path& snapshot, std::uint64_t seed) {
  const fs::path path = snapshot / snapshot::kMemoryName;
  const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  struct stat info = {};
  if (!fd || ::fstat(fd.get(), &info) != 0) stop("cannot open " + path.native());
  const off_t size = info.st_size;
  std::mt19937_64 random(seed);
  for (int i = 0; i < 200; ++i) {
    const off_t at = static_cast<off_t>(random() % static_cast<std::uint64_t>(size));
    unsigned char byte = 0;
    if (::pread(fd.get(), &byte, 1, at) != 1) stop("cannot read memory.bin");
    const auto flipped = static_cast<unsigned char>(byte ^ (1u << (random() % 8)));
    if (::pwrite(fd.get(), &flipped, 1, at) != 1) stop("cannot write memory.bin");
    expect_refused(snapshot, verifies, fmt::format("memory.bin byte {:#x} flipped", at));
    if (::pwrite(fd.get(), &byte, 1, at) != 1) stop("cannot write memory.bin");
  }
  const std::array<off_t, 8> sizes = {0, 1, 4096, size / 2, size - 4096, size - 1, size + 1, size + 4096};
  for (const off_t length : sizes) {
    // The old content comes back from a copy: truncating loses it.
    const fs::path kept = path.native() + ".kept";
    fs::copy_file(path, kept, fs::copy_options::overwrite_existing);
    if (::ftruncate(fd.get(), length) != 0) stop("cannot truncate memory.bin");
    expect_refused(snapshot, opens, fmt::format("memory.bin of {} bytes", length));
    const std::string good = slurp(kept);
    if (::ftruncate(fd.get(), size) != 0 || ::pwrite(fd.get(), good.data(), good.size(), 0) != size)
      stop("cannot mend memory.bin");
    fs::remove(kept);
  }
  // A lost block reads as zeros.
  const off_t data = ::lseek(fd.get(), size / 2, SEEK_DATA);
  std::array<char, 4096> block = {};
  if (data >= 0 && ::pread(fd.get(), block.data(), block.size(), data) == 4096) {
    if (::fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, data, 4096) == 0)
      expect_refused(snapshot, verifies, fmt::format("memory.bin with a hole at {:#x}", data));
    if (::pwrite(fd.get(), block.data(), block.size(), data) != 4096) stop("cannot mend memory.bin");
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) stop("usage: snapshot-damage DIR SCRATCH [SEED]");
  const fs::path copy = argv[2];
  const std::uint64_t seed = argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 1;
  std::error_code error;
  fs::remove_all(copy, error);
  fs::copy(argv[1], copy, error);
  if (error) stop("cannot copy: " + error.message());
  if (!verifies(copy)) stop("the snapshot is not complete to begin with");
  for (const std::string_view name : {snapshot::kManifestName, snapshot::kStateName, snapshot::kConfigName}) {
    flip_all(copy, name, opens);
    resize_all(copy, name);
  }
  flip_all(copy, snapshot::kDigestsName, verifies);
  resize_all(copy, snapshot::kDigestsName);
  damage_memory(copy, seed);
  if (!verifies(copy)) stop("the copy was not mended");  // else everything above proved nothing
  fs::remove_all(copy, error);
  fmt::print("{} damages, {} harmful\n", tried, harmful);
  return harmful == 0 ? 0 : 1;
}
