#include "daemon/snapshot/restorable/restorable.h"

#include <fcntl.h>
#include <sys/file.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>

#include "base/file.h"
#include "daemon/snapshot/format/manifest.h"
#include "devices/storage/image_lock.h"
#include "tests/unit/snapshot/fixture.h"

using namespace vmmd;
using namespace vmmd::snapshot;
using namespace vmmd::snapshot::test;
using MemoryMode = api::RestoreRequest::MemoryMode;

namespace {

/// Leaf 0 of a CPU by this maker.
kvm_cpuid_entry2 vendor_leaf(std::string_view vendor) {
  kvm_cpuid_entry2 leaf = {};
  std::memcpy(&leaf.ebx, vendor.data(), 4);
  std::memcpy(&leaf.edx, vendor.data() + 4, 4);
  std::memcpy(&leaf.ecx, vendor.data() + 8, 4);
  return leaf;
}

class HostBy final : public HostFacts {
 public:
  explicit HostBy(std::string_view vendor) : leaf_(vendor_leaf(vendor)) {}
  [[nodiscard]] Result<std::vector<kvm_cpuid_entry2>> cpuid() const override { return std::vector{leaf_}; }
  [[nodiscard]] Result<HostTsc> tsc() const override { return HostTsc{}; }

 private:
  kvm_cpuid_entry2 leaf_;
};

class NoHost final : public HostFacts {
 public:
  [[nodiscard]] Result<std::vector<kvm_cpuid_entry2>> cpuid() const override { return none(); }
  [[nodiscard]] Result<HostTsc> tsc() const override { return none(); }

 private:
  static tl::unexpected<Error> none() { return fail(ErrorCode::NotSupported, "no host"); }
};

/// What keeps a snapshot of a VM of this configuration from being restored.
std::vector<std::string> problems_of(const std::string& config, const std::string& overrides,
                                     MemoryMode mode = MemoryMode::Cow,
                                     MachineChecks checks = MachineChecks::WithOthers) {
  const TempDir dir;
  publish_sample(dir / "one", {.config = config});
  api::RestoreRequest request;
  request.overrides = overrides;
  request.memory_mode = mode;
  Problems problems;
  std::vector<std::string> notes;
  REQUIRE(examine(dir / "one", request, NoHost(), checks, problems, notes));
  std::vector<std::string> messages = problems.messages();
  if (checks == MachineChecks::Always) {
    for (const std::string& note : notes) messages.push_back("note: " + note);
  }
  return messages;
}

void change_manifest(const std::filesystem::path& snapshot,
                     const std::function<void(SnapshotManifest&)>& change) {
  auto manifest = decode_manifest(read_text(snapshot / "manifest.bin"));
  REQUIRE(manifest);
  change(*manifest);
  write_text(snapshot / "manifest.bin", encode_manifest(*manifest));
}

bool any_says(const std::vector<std::string>& messages, std::string_view part) {
  return std::any_of(messages.begin(), messages.end(),
                     [&](const std::string& message) { return message.find(part) != std::string::npos; });
}

const std::string kPlain =
    R"({"cpus": {"boot_vcpus": 2, "max_vcpus": 2}, "memory": {"size": 5242880}, "payload": {}})";

}  // namespace

TEST_CASE("how memory is backed is overridden only where it is copied") {
  for (const auto& [field, value] : {std::pair("file", "\"/tmp/ram\""), std::pair("shared", "true")}) {
    CAPTURE(field);
    const std::string overrides = fmt::format(R"({{"memory": {{"{}": {}}}}})", field, value);
    const std::string refusal = fmt::format("/memory/{} has no effect", field);
    CHECK(any_says(problems_of(kPlain, overrides), refusal));
    CHECK(any_says(problems_of(kPlain, overrides, MemoryMode::Shared), refusal));
    CHECK_FALSE(any_says(problems_of(kPlain, overrides, MemoryMode::Copy), refusal));
  }
  // Who only asks, before the mode is chosen, is told.
  CHECK(
      any_says(problems_of(kPlain, R"({"memory": {"shared": true}})", MemoryMode::Cow, MachineChecks::Always),
               "note: overrides: /memory/shared has no effect"));
  // What is as it was is no override; what works with every mode is none of these.
  CHECK_FALSE(
      any_says(problems_of(kPlain, R"({"memory": {"shared": false, "thp": false}})"), "has no effect"));
}

TEST_CASE("a device whose layer the snapshot lacks is told before there is a machine") {
  const TempDir dir;
  write_text(dir / "disk.img", std::string(4096, 'd'));
  const auto config = [&](std::string_view overlay) {
    return fmt::format(
        R"({{"cpus": {{"boot_vcpus": 2, "max_vcpus": 2}}, "memory": {{"size": 5242880}}, "payload": {{}},
            "disks": [{{"id": "root", "path": "{}"{}}}]}})",
        (dir / "disk.img").native(), overlay);
  };
  CHECK(any_says(problems_of(config(""), R"({"disks": [{"id": "root", "overlay": "memory"}]})"),
                 "the snapshot has no disk-root.bin"));
  CHECK(any_says(problems_of(config(R"(, "overlay": "memory")"), ""), "the snapshot has no disk-root.bin"));
  CHECK_FALSE(any_says(problems_of(config(""), ""), "disk-root.bin"));
}

TEST_CASE("a console cannot be switched off by an override") {
  const std::string with_console =
      R"({"cpus": {"boot_vcpus": 2, "max_vcpus": 2}, "memory": {"size": 5242880}, "payload": {},
          "console": {"mode": "Pty"}})";
  CHECK(any_says(problems_of(with_console, R"({"console": {"mode": "Off"}})"), "/console/mode"));
}

TEST_CASE("a CPU of another maker is told, both ways; family and model are not") {
  for (const auto& [saved, here] :
       {std::pair("GenuineIntel", "AuthenticAMD"), std::pair("AuthenticAMD", "GenuineIntel"),
        std::pair("AuthenticAMD", "AuthenticAMD"), std::pair("", "AuthenticAMD")}) {
    CAPTURE(saved);
    CAPTURE(here);
    const TempDir dir;
    publish_sample(dir / "one", {.config = kPlain});
    change_manifest(dir / "one", [vendor = saved](SnapshotManifest& manifest) {
      manifest.mutable_cpu()->set_vendor(vendor);
      manifest.mutable_cpu()->set_family(0x1F);
      manifest.mutable_cpu()->set_model(0x7E);
    });
    const auto problems = [&, host = HostBy(here)](api::RestoreRequest::CpuCheck check) {
      api::RestoreRequest request;
      request.cpu_check = check;
      Problems found;
      std::vector<std::string> notes;
      REQUIRE(examine(dir / "one", request, host, MachineChecks::WithOthers, found, notes));
      return found.messages();
    };
    const std::string text = fmt::format("told of a CPU by {} (), this host's is by {}", saved, here);
    const bool differs = *saved != '\0' && std::string_view(saved) != here;
    CHECK(any_says(problems(api::RestoreRequest::CpuCheck::Strict), text) == differs);
    CHECK(any_says(problems(api::RestoreRequest::CpuCheck::Strict), "cpu_check=ignore") == differs);
    CHECK_FALSE(any_says(problems(api::RestoreRequest::CpuCheck::Ignore), "told of a CPU"));
  }
}

TEST_CASE("what is wrong with overrides, config.json, host and snapshot is told in one list") {
  const TempDir dir;
  publish_sample(dir / "one", {.config = kPlain});
  std::filesystem::resize_file(dir / "one/memory.bin", 4096);
  write_text(dir / "one/config.json", "{}");
  api::RestoreRequest request;
  request.overrides = R"({"cpus": {"max_vcpus": 3}, "seriel": 1,
                          "serial": {"mode": "Socket", "socket": "/no/such/directory/s"}})";
  request.memory_size = 4096;
  Problems problems;
  std::vector<std::string> notes;
  REQUIRE(examine(dir / "one", request, HostBy("AuthenticAMD"), MachineChecks::Always, problems, notes));
  for (const char* part :
       {"memory.bin has 4096 bytes", "config.json was edited",
        "overrides: /cpus/max_vcpus: the guest would see", "overrides: /seriel: unknown field",
        "see overrides: /serial/socket: cannot create", "memory size 4096 was asked for",
        "told of a CPU by GenuineIntel", "the snapshot's memory layout"}) {
    CAPTURE(part);
    CHECK(any_says(problems.messages(), part));
  }
}

TEST_CASE("locks of others are told without being tried") {
  const TempDir dir;
  write_text(dir / "root.img", std::string(123'456 / 512 * 512, 'd'));
  publish_sample(
      dir / "one",
      {.config = fmt::format(
           R"({{"cpus": {{"boot_vcpus": 2, "max_vcpus": 2}}, "memory": {{"size": 5242880}}, "payload": {{}},
                          "disks": [{{"id": "root", "path": "{}"}}]}})",
           (dir / "root.img").native())});
  std::vector<std::string> notes;
  const auto problems = [&](MemoryMode mode) {
    api::RestoreRequest request;
    request.memory_mode = mode;
    Problems found;
    notes.clear();
    REQUIRE(examine(dir / "one", request, NoHost(), MachineChecks::Always, found, notes));
    return found.messages();
  };
  const std::string shared_note = "memory_restore_mode shared would be refused: ";
  CHECK_FALSE(any_says(problems(MemoryMode::Shared), "is in use"));
  CHECK_FALSE(any_says(notes, shared_note));

  const auto memory = open_file(dir / "one/memory.bin", O_RDONLY);
  REQUIRE(memory);
  REQUIRE(::flock(memory->get(), LOCK_SH) == 0);
  CHECK_FALSE(any_says(problems(MemoryMode::Cow), "is in use"));
  CHECK(any_says(notes, shared_note + "memory.bin of"));
  CHECK(any_says(problems(MemoryMode::Shared), "is in use by another VM"));
  REQUIRE(::flock(memory->get(), LOCK_EX) == 0);
  CHECK(any_says(problems(MemoryMode::Cow), "is in use by a shared restore"));
  REQUIRE(::flock(memory->get(), LOCK_UN) == 0);

  const auto directory = open_file(dir / "one", O_RDONLY | O_DIRECTORY);
  REQUIRE(directory);
  REQUIRE(::flock(directory->get(), LOCK_EX) == 0);
  CHECK_FALSE(any_says(problems(MemoryMode::Cow), "is being changed"));
  CHECK(any_says(notes, shared_note + "the snapshot"));
  CHECK(any_says(problems(MemoryMode::Shared), "is being changed by somebody else"));

  const auto disk = open_file(dir / "root.img", O_RDONLY);
  REQUIRE(disk);
  CHECK_FALSE(any_says(problems(MemoryMode::Cow), "the image"));
  REQUIRE(devices::lock_image(disk->get(), "root.img", /*readonly=*/true));
  CHECK(any_says(problems(MemoryMode::Cow), "disk root: the image"));
}
