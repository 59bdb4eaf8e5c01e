#include <doctest/doctest.h>

#include "remote/describe.h"
#include "remote/progress.h"
#include "remote/table.h"

using namespace vmmd::remote;

TEST_CASE("columns are as wide as their widest cell, in characters") {
  CHECK(format_table({{"NAME", "X"}, {"schön", "y"}, {"a"}}) == "NAME   X\nschön  y\na\n");
  CHECK(format_table({}).empty());
}

TEST_CASE("sizes are in binary units with one digit at most behind the point") {
  CHECK(format_size(0) == "0 B");
  CHECK(format_size(1023) == "1023 B");
  CHECK(format_size(1024) == "1 KiB");
  CHECK(format_size(1536) == "1.5 KiB");
  CHECK(format_size(134217728) == "128 MiB");
  CHECK(format_size((std::uint64_t{1} << 40) - 1) == "1 TiB");
  CHECK(format_size(~std::uint64_t{0}) == "16384 PiB");
}

TEST_CASE("ages are in the unit that says most") {
  CHECK(format_age(-5) == "0s");
  CHECK(format_age(119) == "119s");
  CHECK(format_age(120) == "2m");
  CHECK(format_age(7199) == "119m");
  CHECK(format_age(7200) == "2h");
  CHECK(format_age(172800) == "2d");
}

TEST_CASE("times are UTC") {
  CHECK(format_time(0) == "1970-01-01T00:00:00Z");
  CHECK(format_time(1795257480) == "2026-11-21T10:38:00Z");
}

TEST_CASE("progress fits the terminal, and never more than all is done") {
  const std::string line = progress_line("snapshot", "memory", 1 << 20, 2 << 20, 1, 100);
  CHECK(line.find("[====================                    ]") != std::string::npos);
  CHECK(line.find(" 50%  1 MiB of 2 MiB  1 MiB/s") != std::string::npos);
  CHECK(progress_line("verify", "", 5, 4, 0, 100).find("100%") != std::string::npos);
  for (std::size_t columns = 0; columns < 120; ++columns) {
    CHECK(progress_line("snapshot", "memory", 7, 9, 3, columns).size() <= columns);
  }
  CHECK(progress_line("restore", "check", 0, 0, 3, 80) == "restore check");
}

TEST_CASE("no text of a snapshot reaches the terminal as it is") {
  vmmd::snapshot::SnapshotDescription hostile;
  hostile.state = vmmd::snapshot::SnapshotState::Complete;
  hostile.path = "/snapshots/\x1B]0;one";
  hostile.problems = {"two\x1B[2J"};
  hostile.manifest.set_version(1);
  auto& disk = *hostile.manifest.add_disks();
  disk.set_id("three\x1B[2J");
  disk.set_path("/four\x1B[2J\nState: complete");
  (*hostile.manifest.mutable_labels())["five"] = "\x1B[2J";
  const std::string text = details_text(hostile);
  CHECK(text.find('\x1B') == std::string::npos);
  CHECK(text.find("/four?[2J?State: complete") != std::string::npos);
}
