#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "api/options.h"
#include "api/validate_devices.h"
#include "api/validate_pmem.h"
#include "tests/unit/support/temp_dir.h"

using namespace vmmd;
using namespace vmmd::api;

namespace {

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

template <class T>
std::string error_of(const Result<T>& result) {
  return result ? "accepted" : result.error().to_string();
}

using Check = void (*)(const VmConfig& config, Findings& findings);

std::vector<std::string> mistakes(Check check, const VmConfig& config) {
  Findings findings;
  check(config, findings);
  const Status status = std::move(findings).status();
  return status ? std::vector<std::string>{} : status.error().messages;
}

using Messages = std::vector<std::string>;

std::string make_file(const std::string& path, std::uint64_t size) {
  const std::ofstream file(path);
  std::filesystem::resize_file(path, size);
  return path;
}

}  // namespace

TEST_CASE("--rng takes the source of entropy") {
  const auto rng = parse_rng_option("src=/dev/random,id=r0,pci_device_id=9");
  REQUIRE(rng);
  CHECK(rng->src == "/dev/random");
  CHECK(rng->pci.id == "r0");
  CHECK(rng->pci.pci_device_id == 9);
  CHECK(parse_rng_option("")->src == "/dev/urandom");
  CHECK(error_of(parse_rng_option("src=")).starts_with("--rng src="));
}

TEST_CASE("--vsock takes a CID and a socket") {
  const auto vsock = parse_vsock_option("cid=77,socket=/run/v,id=v0,pci_device_id=9");
  REQUIRE_MESSAGE(vsock, error_of(vsock));
  VsockConfig want;
  want.cid = 77;
  want.socket = "/run/v";
  want.pci.id = "v0";
  want.pci.pci_device_id = 9;
  CHECK(*vsock == want);
}

TEST_CASE("--vsock needs both, and a CID that is a guest's") {
  CHECK(error_of(parse_vsock_option("socket=/run/v")).starts_with("--vsock needs cid=N"));
  CHECK(error_of(parse_vsock_option("cid=3")).starts_with("--vsock needs cid=N"));
  CHECK(error_of(parse_vsock_option("cid=2,socket=/v")).starts_with("--vsock cid="));
  CHECK(error_of(parse_vsock_option("cid=4294967295,socket=/v")).starts_with("--vsock cid="));
  CHECK(parse_vsock_option("cid=4294967294,socket=/v"));
}

TEST_CASE("--pmem takes a file, a size and whether writes are discarded") {
  const auto pmem = parse_pmem_option("file=/images/p,size=64M,discard_writes=on,id=p0");
  REQUIRE_MESSAGE(pmem, error_of(pmem));
  PmemConfig want;
  want.file = "/images/p";
  want.size = 64 * kMiB;
  want.discard_writes = true;
  want.pci.id = "p0";
  CHECK(*pmem == want);
  CHECK(error_of(parse_pmem_option("size=64M")) == "--pmem needs file=PATH");
}

TEST_CASE("the socket of vsock has a directory and a name that fits") {
  const testing::TempDir dir;
  VmConfig config;
  config.vsock.emplace().socket = dir / "v";
  CHECK(mistakes(check_vsock, config).empty());
  for (const std::string& bad : {std::string(), dir / "none/v", dir / std::string(108, 'v')}) {
    CAPTURE(bad);
    config.vsock->socket = bad;
    const Messages found = mistakes(check_vsock, config);
    REQUIRE(found.size() == 1);
    CHECK(found[0].starts_with("/vsock/socket: "));
  }
}

TEST_CASE("the socket of vsock is no other device's") {
  const testing::TempDir dir;
  VmConfig config;
  config.vsock.emplace().socket = dir / "v";
  config.serial.socket = dir / "v";
  CHECK(mistakes(check_shared_paths, config).size() == 1);
}

TEST_CASE("a pmem's size, given or the file's, is a multiple of 2 MiB that the file has") {
  const testing::TempDir dir;
  VmConfig config;
  config.pmem.resize(1);
  config.pmem[0].file = make_file(dir / "p", 4 * kMiB);
  CHECK(mistakes(check_pmem, config).empty());
  config.pmem[0].size = 2 * kMiB;
  CHECK(mistakes(check_pmem, config).empty());
  config.pmem[0].size = 6 * kMiB;
  CHECK(mistakes(check_pmem, config) ==
        Messages{"/pmem/0/size: \"" + (dir / "p") + "\" has 4194304 bytes, fewer than 6291456"});
  for (const std::uint64_t odd : {std::uint64_t{0}, kMiB, 2 * kMiB + 4096}) {
    config.pmem[0].size = odd;
    CHECK(mistakes(check_pmem, config) ==
          Messages{"/pmem/0/size: " + std::to_string(odd) + " bytes are not a positive multiple of 2 MiB"});
  }
  config.pmem[0].size.reset();
  make_file(dir / "p", 3 * kMiB);
  CHECK(mistakes(check_pmem, config) ==
        Messages{"/pmem/0/file: 3145728 bytes are not a positive multiple of 2 MiB"});
}

TEST_CASE("a pmem's file is there, and a file or block device") {
  const testing::TempDir dir;
  VmConfig config;
  config.pmem.resize(3);
  config.pmem[0].file = dir / "missing";
  config.pmem[1].file = dir / "";
  config.pmem[2].file = "/dev/null";
  const Messages found = mistakes(check_pmem, config);
  REQUIRE(found.size() == 3);
  for (std::size_t i = 0; i < found.size(); ++i) {
    CHECK(found[i].starts_with("/pmem/" + std::to_string(i) + "/file: "));
  }
}
