#include "daemon/snapshot/restorable/restorable.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>

#include "tests/unit/snapshot/fixture.h"

using namespace vmmd;
using namespace vmmd::snapshot;
using namespace vmmd::snapshot::test;
using MemoryMode = api::RestoreRequest::MemoryMode;

namespace {

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
