// What `snapshot check` finds, and what a restore says: the same, whatever is wrong.
#include "daemon/snapshot/restorable/restorable.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <set>
#include <sstream>

#include <doctest/doctest.h>

#include "base/side_thread.h"
#include "daemon/snapshot/capture.h"
#include "daemon/snapshot/format/digest.h"
#include "daemon/snapshot/format/manifest.h"
#include "daemon/snapshot/restorable/unit_names.h"
#include "daemon/snapshot/restore.h"
#include "devices/storage/raw_file.h"
#include "tests/guest/machine/fixture.h"

using namespace vmmd;
using namespace vmmd::vm::test;
namespace fs = std::filesystem;

namespace {

constexpr const char* kQuiet = R"({"serial": {"mode": "Null"}})";

std::string read_text(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

void write_text(const fs::path& path, std::string_view text) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
}

// A snapshot of a VM that knows a persistent memory.
class Sample {
 public:
  Sample() : vm_({"tick"}) {
    write_text(pmem(), std::string(2 << 20, 'p'));
    vm_.boot();
    vm_.console().wait_for("tick 1");
    vm_.pause();
    // Named by the configuration only: the machine has no such device.
    api::PmemConfig pmem_config;
    pmem_config.file = pmem();
    pmem_config.size = 2 << 20;
    pmem_config.pci.id = "store";
    api::VmConfig config = vm_.config();
    config.pmem.push_back(pmem_config);
    api::SnapshotRequest request;
    request.destination_url = "file://" + directory().native();
    snapshot::Job job("snapshot-1", "snapshot");
    SideThread sync("sync");
    const auto taken = snapshot::take_snapshot(vm_.machine(), config, request, job, sync);
    if (!taken) FAIL(taken.error().to_string());
  }

  [[nodiscard]] fs::path directory() const { return dir_ / "snap"; }
  [[nodiscard]] std::string pmem() const { return dir_ / "pmem"; }

  void change_manifest(const std::function<void(snapshot::SnapshotManifest&)>& change) const {
    const fs::path path = directory() / "manifest.bin";
    auto manifest = snapshot::decode_manifest(read_text(path));
    REQUIRE(manifest);
    change(*manifest);
    write_text(path, snapshot::encode_manifest(*manifest));
  }

  // state.bin and what the manifest says of it.
  void change_state(const std::function<void(state::SavedState&)>& change) const {
    state::SavedState saved;
    REQUIRE(saved.ParseFromString(read_text(directory() / "state.bin")));
    change(saved);
    const std::string bytes = saved.SerializeAsString();
    write_text(directory() / "state.bin", bytes);
    change_manifest([&](snapshot::SnapshotManifest& manifest) {
      for (snapshot::File& file : *manifest.mutable_files()) {
        if (file.name() != "state.bin") continue;
        file.set_length(bytes.size());
        file.set_digest(snapshot::Digest::of(bytes).to_bytes());
      }
      manifest.clear_units();
      for (const state::SavedUnit& unit : saved.units()) {
        snapshot::Unit& listed = *manifest.add_units();
        listed.set_name(unit.name());
        listed.set_version(unit.version());
      }
    });
  }

 private:
  testing::TempDir dir_;
  TestVm vm_;
};

using Findings = std::multiset<std::string>;

Findings check_findings(const fs::path& directory, const api::RestoreRequest& request) {
  snapshot::Problems problems;
  std::vector<std::string> notes;
  static_cast<void>(snapshot::examine(directory, request, snapshot::ThisHost(),
                                      snapshot::MachineChecks::Always, problems, notes));
  CHECK(notes.empty());
  return {problems.messages().begin(), problems.messages().end()};
}

// Without its headline.
Findings restore_findings(const api::RestoreRequest& request) {
  const auto restore = [&]() -> Status {
    VMMD_ASSIGN(snapshot::RestorePlan plan, snapshot::plan_restore(request, *host_kvm()));
    snapshot::Job job("restore-1", "restore");
    VMMD_ASSIGN(memory::GuestRam ram, snapshot::restore_ram(plan, job));
    VMMD_ASSIGN(const auto host, vm::HostSide::open(plan.config, vm::HostSide::Life::Restored));
    Recorder recorder;
    VMMD_ASSIGN(const auto machine,
                vm::Machine::create(host_kvm(), plan.config, std::move(ram), *host, recorder));
    std::vector<std::string> fresh;
    return snapshot::restore_machine(plan, *machine, fresh);
  };
  const Status restored = restore();
  if (restored) return {};
  const std::vector<std::string>& messages = restored.error().messages;
  // One message is the finding itself, more have a headline.
  return {messages.begin() + (messages.size() > 1 ? 1 : 0), messages.end()};
}

struct Damage {
  const char* name;
  std::function<void(const Sample&)> inflict;
  std::size_t findings;
};

void cut(const fs::path& path) {
  fs::resize_file(path, fs::file_size(path) - 4096);
}
void lie_about_tsc(const Sample& sample) {
  sample.change_manifest([](auto& manifest) { manifest.mutable_cpu()->set_tsc_khz(123'456); });
}
void add_unit(const Sample& sample) {
  sample.change_state([](state::SavedState& saved) {
    state::SavedUnit& unit = *saved.add_units();
    unit = saved.units(0);
    unit.set_name("disk:nowhere");
  });
}
void change_vendor(const Sample& sample) {
  sample.change_manifest([](auto& manifest) {
    const bool intel = manifest.cpu().vendor() == "GenuineIntel";
    manifest.mutable_cpu()->set_vendor(intel ? "AuthenticAMD" : "GenuineIntel");
  });
}
void forget_disk(const Sample& sample) {
  sample.change_manifest([](auto& manifest) { manifest.clear_disks(); });
}
void demand_feature(const Sample& sample) {
  sample.change_manifest([](auto& manifest) {
    for (snapshot::CpuidLeaf& leaf : *manifest.mutable_cpu()->mutable_cpuid()) {
      if (leaf.function() == 7 && leaf.index() == 0) leaf.set_edx(leaf.edx() | 1);  // reserved: no CPU has it
    }
  });
}
void move_memory(const Sample& sample) {
  sample.change_manifest(
      [](auto& manifest) { manifest.mutable_memory_layout(0)->set_guest_address(0x20'0000); });
}
void add_vcpu(const Sample& sample) {
  sample.change_manifest([](auto& manifest) { manifest.set_vp_count(2); });
}
void write_to_disk(const Sample& sample) {
  write_text(sample.pmem(), std::string(2 << 20, 'q'));
}

const Damage kDamages[] = {
    {"nothing", [](const Sample&) {}, 0},
    {"memory.bin is gone", [](const Sample& s) { fs::remove(s.directory() / "memory.bin"); }, 1},
    {"state.bin is gone", [](const Sample& s) { fs::remove(s.directory() / "state.bin"); }, 1},
    {"manifest.bin is gone", [](const Sample& s) { fs::remove(s.directory() / "manifest.bin"); }, 1},
    {"memory.bin is cut", [](const Sample& s) { cut(s.directory() / "memory.bin"); }, 1},
    {"config.json is edited", [](const Sample& s) { write_text(s.directory() / "config.json", "{}"); }, 1},
    {"the memory lies elsewhere", move_memory, 1},
    {"the TSC is another", lie_about_tsc, 1},
    {"the CPU lacks something", demand_feature, 1},
    {"the CPU is another maker's", change_vendor, 1},
    {"a unit too many", add_unit, 1},
    {"a vCPU too many", add_vcpu, 1},
    {"a disk was written to", write_to_disk, 1},
    {"a disk is not listed", forget_disk, 1},
    {"a disk is gone", [](const Sample& s) { fs::remove(s.pmem()); }, 1},
    {"many things at once",
     [](const Sample& s) {
       add_unit(s);
       lie_about_tsc(s);
       demand_feature(s);
       move_memory(s);
       add_vcpu(s);
       write_to_disk(s);
       cut(s.directory() / "memory.bin");
     },
     7},
    {"the configuration and other things",
     [](const Sample& s) {
       fs::remove(s.pmem());
       add_unit(s);
       lie_about_tsc(s);
       change_vendor(s);
       write_text(s.directory() / "config.json", "{}");
     },
     5},
};

}  // namespace

TEST_CASE("check and restore find the same, all of it in one list") {
  for (const Damage& damage : kDamages) {
    CAPTURE(damage.name);
    const Sample sample;
    damage.inflict(sample);
    api::RestoreRequest request;
    request.source_url = "file://" + sample.directory().native();
    request.overrides = kQuiet;
    const Findings checked = check_findings(sample.directory(), request);
    const Findings said = restore_findings(request);
    CHECK(checked == said);
    std::string all;
    for (const std::string& finding : checked) all += finding + "\n";
    CAPTURE(all);
    CHECK(checked.size() == damage.findings);
  }
}

TEST_CASE("overrides that cannot be taken hide nothing from check or restore") {
  const Sample sample;
  add_unit(sample);
  cut(sample.directory() / "memory.bin");
  api::RestoreRequest request;
  request.source_url = "file://" + sample.directory().native();
  request.overrides =
      R"({"serial": {"mode": "Null"}, "pmem": [{"file": "/x"}], "cpus": {"max_vcpus": 7}, "x": 1})";
  const Findings checked = check_findings(sample.directory(), request);
  CHECK(checked.size() == 5);
  CHECK(restore_findings(request) == checked);
}

TEST_CASE("a disk that another holds is told by both") {
  const Sample sample;
  write_to_disk(sample);  // or a restore would leave the disk to the machine
  const auto other = devices::RawFile::open(sample.pmem(), {.readonly = true});
  REQUIRE(other);
  api::RestoreRequest request;
  request.source_url = "file://" + sample.directory().native();
  request.overrides = kQuiet;
  const Findings checked = check_findings(sample.directory(), request);
  CHECK(checked.size() == 2);
  CHECK(restore_findings(request) == checked);
}

TEST_CASE("cpu_check=ignore takes CPU and TSC off the list") {
  const Sample sample;
  lie_about_tsc(sample);
  demand_feature(sample);
  change_vendor(sample);
  api::RestoreRequest request;
  request.source_url = "file://" + sample.directory().native();
  request.overrides = kQuiet;
  request.cpu_check = api::RestoreRequest::CpuCheck::Ignore;
  CHECK(check_findings(sample.directory(), request).empty());
}

TEST_CASE("the units known by name are those of the machine") {
  for (const bool pc : {false, true}) {
    for (const bool rng : {false, true}) {
      for (const unsigned vcpus : {1U, 3U}) {
        TestVm vm(Setup("tick", "", vcpus));
        vm.config().platform.pc = pc;
        if (rng) vm.config().rng.pci.pci_device_id = 4;
        const auto host = vm::HostSide::open(
            [&] {
              api::VmConfig config = vm.config();
              config.serial.mode = api::ConsoleMode::Null;
              config.serial.socket.reset();
              return config;
            }(),
            vm::HostSide::Life::New);
        REQUIRE(host);
        auto ram =
            memory::GuestRam::allocate(vm.config().memory, *memory::ram_layout(vm.config().memory.size, 46));
        REQUIRE(ram);
        const auto machine =
            vm::Machine::create(host_kvm(), vm.config(), std::move(*ram), **host, vm.recorder());
        REQUIRE(machine);
        std::set<std::string> names;
        for (const devices::StateUnit* unit : (*machine)->units()) names.emplace(unit->unit_name());
        CHECK(snapshot::unit_names(vm.config()) == names);
      }
    }
  }
}
