#include "daemon/snapshot/format/manifest.h"

#include <functional>
#include <string>

#include <doctest/doctest.h>

#include "daemon/snapshot/format/layout.h"
#include "daemon/snapshot/format/wire.h"
#include "tests/unit/snapshot/fixture.h"

using namespace vmmd;
using namespace vmmd::snapshot;
using namespace vmmd::snapshot::test;

namespace {

/// The problems of a valid manifest after one change.
std::vector<std::string> problems_after(const std::function<void(SnapshotManifest&)>& change) {
  static const SnapshotManifest kValid = valid_manifest();
  SnapshotManifest manifest = kValid;
  change(manifest);
  Problems problems;
  validate_manifest(manifest, problems);
  return problems.messages();
}

bool refused_for(std::string_view reason, const std::function<void(SnapshotManifest&)>& change) {
  for (const std::string& problem : problems_after(change)) {
    if (problem.find(reason) != std::string::npos) return true;
  }
  return false;
}

}  // namespace

TEST_CASE("tags 1 to 7 are OpenVMM's on the wire") {
  SnapshotManifest manifest;
  manifest.set_version(1);
  manifest.mutable_created_at()->set_seconds(5);
  manifest.mutable_created_at()->set_nanos(6);
  manifest.set_vmmd_version("v");
  manifest.set_memory_size_bytes(300);
  manifest.set_vp_count(2);
  manifest.set_page_size(4096);
  manifest.set_architecture("x86_64");
  const std::string_view expected =
      "\x08\x01"
      "\x12\x04\x08\x05\x10\x06"
      "\x1A\x01v"
      "\x20\xAC\x02"
      "\x28\x02"
      "\x30\x80\x20"
      "\x3A\x06x86_64";
  CHECK(encode_manifest(manifest).substr(0, expected.size()) == expected);
}

TEST_CASE("a manifest is read as it was written") {
  const SnapshotManifest manifest = valid_manifest();
  const auto read = decode_manifest(encode_manifest(manifest));
  REQUIRE(read);
  CHECK(read->snapshot_id() == manifest.snapshot_id());
  CHECK(read->memory_layout_size() == 2);
  CHECK(read->labels().at("owner") == "ci");
  CHECK(read->manifest_digest().empty());
}

TEST_CASE("manifest.bin is one protobuf message whose last field is the digest") {
  const std::string bytes = encode_manifest(valid_manifest());
  SnapshotManifest plain;
  REQUIRE(plain.ParseFromString(bytes));
  CHECK(plain.manifest_digest() == bytes.substr(bytes.size() - 16));
  CHECK(plain.version() == 1);
}

TEST_CASE("every changed bit of manifest.bin is refused") {
  const std::string bytes = encode_manifest(valid_manifest());
  std::size_t accepted = 0;
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    for (unsigned bit = 0; bit < 8; ++bit) {
      std::string damaged = bytes;
      damaged[at] = static_cast<char>(static_cast<unsigned char>(damaged[at]) ^ (1u << bit));
      if (decode_manifest(damaged)) ++accepted;
    }
  }
  CHECK(accepted == 0);
}

TEST_CASE("a manifest.bin of any other length is refused") {
  const std::string bytes = encode_manifest(valid_manifest());
  std::size_t accepted = 0;
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    if (decode_manifest(bytes.substr(0, size))) ++accepted;
  }
  CHECK(accepted == 0);
  CHECK_FALSE(decode_manifest(bytes + '\0'));
  CHECK_FALSE(decode_manifest(bytes + bytes));
}

TEST_CASE("fields of a newer writer are kept when the manifest is written again") {
  SnapshotManifest manifest = valid_manifest();
  std::string body = manifest.SerializeAsString();
  body += std::string("\x98\x3E\x07", 3);  // field 995, varint 7
  REQUIRE(manifest.ParseFromString(body));
  const auto read = decode_manifest(encode_manifest(manifest));
  REQUIRE(read);
  CHECK(read->SerializeAsString().find(std::string("\x98\x3E\x07", 3)) != std::string::npos);
}

TEST_CASE("a valid manifest has no problems") {
  CHECK(problems_after([](SnapshotManifest&) {}).empty());
}

TEST_CASE("another format version is the only problem named") {
  const auto problems = problems_after([](SnapshotManifest& m) {
    m.set_version(2);
    m.set_vp_count(0);
  });
  REQUIRE(problems.size() == 1);
  CHECK(problems[0].find("format version 2") != std::string::npos);
}

TEST_CASE("all broken rules are named at once") {
  const auto problems = problems_after([](SnapshotManifest& m) {
    m.set_vp_count(0);
    m.set_page_size(65536);
    m.set_architecture("aarch64");
  });
  CHECK(problems.size() == 3);
}

TEST_CASE("thousands of broken rules are not thousands of messages") {
  const auto problems = problems_after([](SnapshotManifest& m) {
    for (int i = 0; i < 5000; ++i) m.add_required_features("warp");
  });
  REQUIRE(problems.size() == 64);
  CHECK(problems.back() == "and 4937 more problems");
}

TEST_CASE("what an old reader must not ignore is refused by name") {
  CHECK(refused_for("\"warp\"", [](SnapshotManifest& m) { m.add_required_features("warp"); }));
}

TEST_CASE("identity is checked") {
  CHECK(refused_for("UUID", [](SnapshotManifest& m) { m.set_snapshot_id("one"); }));
  CHECK(refused_for("UUID",
                    [](SnapshotManifest& m) { m.set_snapshot_id("01234567-89AB-cdef-fedc-ba9876543210"); }));
  CHECK(refused_for("kind 2", [](SnapshotManifest& m) { m.set_kind(KIND_DIFF); }));
  CHECK(refused_for("parent_id", [](SnapshotManifest& m) { m.set_parent_id(m.snapshot_id()); }));
  CHECK(refused_for("created_at",
                    [](SnapshotManifest& m) { m.mutable_created_at()->set_nanos(1'000'000'000); }));
  CHECK(refused_for("created_at", [](SnapshotManifest& m) { m.mutable_created_at()->set_seconds(-1); }));
}

TEST_CASE("the machine is checked") {
  CHECK(refused_for("architecture", [](SnapshotManifest& m) { m.set_architecture("riscv64"); }));
  CHECK(refused_for("pages of 16384", [](SnapshotManifest& m) { m.set_page_size(16384); }));
  CHECK(refused_for("0 vCPUs", [](SnapshotManifest& m) { m.set_vp_count(0); }));
  CHECK(refused_for("4097 vCPUs", [](SnapshotManifest& m) { m.set_vp_count(4097); }));
  CHECK(refused_for("cpu.brand",
                    [](SnapshotManifest& m) { m.mutable_cpu()->set_brand(std::string(4097, 'x')); }));
  CHECK(refused_for("CPUID leaves", [](SnapshotManifest& m) {
    for (int i = 0; i <= kCpuidLimit; ++i) m.mutable_cpu()->add_cpuid();
  }));
}

TEST_CASE("the size of memory is checked") {
  for (const std::uint64_t size : {std::uint64_t{0}, 5 * kMiB + 1, kMemoryLimit + 4096}) {
    CHECK(refused_for("memory_size_bytes", [size](SnapshotManifest& m) { m.set_memory_size_bytes(size); }));
  }
}

TEST_CASE("the layout of memory is checked") {
  const auto high = [](SnapshotManifest& m) { return m.mutable_memory_layout(1); };
  CHECK(refused_for("add up", [](SnapshotManifest& m) { m.clear_memory_layout(); }));
  CHECK(refused_for("add up", [](SnapshotManifest& m) { m.mutable_memory_layout()->RemoveLast(); }));
  CHECK(refused_for("empty", [&](SnapshotManifest& m) { high(m)->set_length(0); }));
  CHECK(refused_for("too large", [&](SnapshotManifest& m) { high(m)->set_length(UINT64_MAX - 4095); }));
  CHECK(refused_for("whole pages", [&](SnapshotManifest& m) { high(m)->set_guest_address(0x1'0000'0001); }));
  CHECK(
      refused_for("too large", [&](SnapshotManifest& m) { high(m)->set_guest_address(UINT64_MAX - 4095); }));
  CHECK(refused_for("before the end", [&](SnapshotManifest& m) { high(m)->set_guest_address(2 * kMiB); }));
  CHECK(refused_for("offset", [&](SnapshotManifest& m) { high(m)->set_file_offset(0); }));
}

TEST_CASE("the list of files is checked") {
  const auto file = [](SnapshotManifest& m, std::string_view name) -> File& {
    for (File& listed : *m.mutable_files()) {
      if (listed.name() == name) return listed;
    }
    FAIL("no such file");
    return *m.add_files();
  };
  CHECK(refused_for("does not list state.bin",
                    [&](SnapshotManifest& m) { file(m, kStateName).set_name("other"); }));
  CHECK(refused_for("more than once", [&](SnapshotManifest& m) { *m.add_files() = file(m, kStateName); }));
  CHECK(refused_for("no file name", [&](SnapshotManifest& m) { m.add_files()->set_name("../passwd"); }));
  CHECK(refused_for("no file name", [&](SnapshotManifest& m) { m.add_files()->set_name(".."); }));
  CHECK(
      refused_for("at most", [&](SnapshotManifest& m) { file(m, kStateName).set_length(kStateLimit + 1); }));
  CHECK(refused_for("at most",
                    [&](SnapshotManifest& m) { file(m, kConfigName).set_length(kConfigLimit + 1); }));
  CHECK(refused_for("digest of state.bin",
                    [&](SnapshotManifest& m) { file(m, kStateName).set_digest("short"); }));
  CHECK(refused_for("memory.bin is listed",
                    [&](SnapshotManifest& m) { file(m, kMemoryName).set_length(4096); }));
  CHECK(refused_for("memory_chunk_size", [&](SnapshotManifest& m) { m.set_memory_chunk_size(4096); }));
  CHECK(refused_for("memory_chunk_size", [&](SnapshotManifest& m) { m.set_memory_chunk_size(0); }));
  CHECK(refused_for("does not fit", [&](SnapshotManifest& m) { file(m, kDigestsName).set_length(16); }));
  CHECK(refused_for("copy of config.json", [&](SnapshotManifest& m) { m.set_config("{}"); }));
}

TEST_CASE("disks, units and labels are checked") {
  CHECK(refused_for("disk \"disk0\"", [](SnapshotManifest& m) { m.add_disks()->set_id("disk0"); }));
  CHECK(refused_for("an id", [](SnapshotManifest& m) { m.add_disks(); }));
  CHECK(refused_for("unit \"vm\"", [](SnapshotManifest& m) { m.add_units()->set_name("vm"); }));
  CHECK(refused_for("a unit", [](SnapshotManifest& m) { m.add_units()->set_name("a\nb"); }));
  CHECK(refused_for("label", [](SnapshotManifest& m) { (*m.mutable_labels())[""] = "x"; }));
  CHECK(
      refused_for("label", [](SnapshotManifest& m) { (*m.mutable_labels())["x"] = std::string(4097, 'y'); }));
  CHECK(refused_for("labels", [](SnapshotManifest& m) {
    for (int i = 0; i < 65; ++i) (*m.mutable_labels())[std::to_string(i)] = "x";
  }));
}

TEST_CASE("what a snapshot says of itself cannot break a message") {
  CHECK(shown("a\nb\x7F") == "a?b?");
  CHECK(shown(std::string(63, 'x') + "\xC3\xA4").size() == 66);  // cut before the two-byte character
  CHECK(shown("\xC3\xA4") == "\xC3\xA4");
}

TEST_CASE("state is refused when it is not what the manifest lists") {
  const SnapshotManifest manifest = valid_manifest();
  const auto problems_of = [&](const state::SavedState& state) {
    Problems problems;
    validate_state(state, manifest, problems);
    return problems.messages().size();
  };
  CHECK(problems_of(sample_state()) == 0);
  state::SavedState fewer = sample_state();
  fewer.mutable_units()->RemoveLast();
  CHECK(problems_of(fewer) == 1);
  state::SavedState newer = sample_state();
  newer.mutable_units(0)->set_version(99);
  CHECK(problems_of(newer) == 1);
  state::SavedState twice = sample_state();
  twice.mutable_units(1)->set_name("vm");
  CHECK(problems_of(twice) == 2);
  state::SavedState empty = sample_state();
  empty.mutable_units(2)->clear_state();
  CHECK(problems_of(empty) == 1);
}

TEST_CASE("more units than allowed are refused before they become objects") {
  std::string bytes;
  for (int i = 0; i <= kUnitLimit; ++i) bytes += std::string("\x0A\x00", 2);
  CHECK_FALSE(decode_state(bytes));
  CHECK(decode_state(std::string_view(bytes).substr(2)));
}

TEST_CASE("fields are counted without allocating, and only of a message") {
  CHECK(count_fields("", 1) == 0);
  CHECK(count_fields(std::string("\x08\x01\x12\x02hi", 6), 2) == 2);
  CHECK_FALSE(count_fields(std::string("\x08\x01\x12\x02hi", 6), 1));
  CHECK_FALSE(count_fields(std::string("\x12\x03hi", 4), 9));        // cut off
  CHECK_FALSE(count_fields(std::string("\x0B\x0C", 2), 9));          // a group
  CHECK_FALSE(count_fields(std::string(11, '\xFF'), 9));             // a varint without end
  CHECK_FALSE(count_fields(std::string("\x09\x01\x02\x03", 4), 9));  // a cut fixed64
}

TEST_CASE("an offset of memory.bin is found in the guest's memory") {
  const SnapshotManifest manifest = valid_manifest();
  CHECK(guest_address_of(manifest, 0x1234) == 0x1234);
  CHECK(guest_address_of(manifest, 3 * kMiB - 1) == 3 * kMiB - 1);
  CHECK(guest_address_of(manifest, 3 * kMiB + 0x10) == 0x1'0000'0010);
}
