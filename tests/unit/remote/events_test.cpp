#include "remote/events.h"

#include <doctest/doctest.h>

#include "remote/vm_state.h"

using namespace vmmd::remote;

TEST_CASE("an event's source, name and properties are read") {
  const auto event = parse_event(
      R"({"sequence":3,"source":"vm","event":"snapshotting","properties":{"job":"snapshot-1","x":"y"}})");
  REQUIRE(event.has_value());
  CHECK(event->source == "vm");
  CHECK(event->event == "snapshotting");
  CHECK(event->properties.at("job") == "snapshot-1");
}

TEST_CASE("what is no event, or an odd one, does no harm") {
  CHECK_FALSE(parse_event("").has_value());
  CHECK_FALSE(parse_event("[1]").has_value());
  const auto odd = parse_event(R"({"source":7,"properties":[]})");
  REQUIRE(odd.has_value());
  CHECK(odd->source.empty());
  CHECK(odd->properties.empty());
}

TEST_CASE("events tell the state that follows") {
  const auto state = [](const char* source, const char* event) {
    return state_after(SeenEvent{source, event, {}});
  };
  CHECK(state("vm", "created") == "Created");
  CHECK(state("vm", "booted") == "Running");
  CHECK(state("vm", "paused") == "Paused");
  CHECK(state("vm", "resumed") == "Running");
  CHECK(state("vm", "restored") == "Paused");
  CHECK(state("vm", "shutdown") == "Shutdown");
  CHECK(state("vm", "deleted") == "None");
  CHECK(state("vm", "pausing").empty());
  CHECK(state("guest", "shutdown").empty());  // what the guest asks for, not yet what is
}

TEST_CASE("vm.info is read as far as it goes") {
  const VmSummary summary = parse_vm_info(
      R"({"config":{"cpus":{"boot_vcpus":3},"serial":{"mode":"Socket","socket":"/s","file":"/f"}},
          "state":"Paused","memory_actual_size":1048577,
          "jobs":[{"id":"snapshot-2","kind":"snapshot","phase":"memory","bytes_done":5,"bytes_total":9,"seconds":0.5}]})");
  CHECK(summary.state == "Paused");
  CHECK(summary.memory == 1048577);
  CHECK(summary.vcpus == 3);
  CHECK(summary.serial.mode == "Socket");
  CHECK(summary.serial.path == "/s");
  REQUIRE(summary.jobs.size() == 1);
  CHECK(summary.jobs[0].bytes_total == 9);
}

TEST_CASE("a pty's path stands where a file's would") {
  CHECK(parse_vm_info(R"({"config":{"serial":{"mode":"Pty","file":"/dev/pts/7"}}})").serial.path ==
        "/dev/pts/7");
}

TEST_CASE("an answer of another shape leaves everything empty") {
  for (const char* body : {"", "null", "[]", R"({"config":5,"jobs":{},"state":{}})"}) {
    const VmSummary summary = parse_vm_info(body);
    CHECK(summary.state.empty());
    CHECK(summary.jobs.empty());
  }
}
