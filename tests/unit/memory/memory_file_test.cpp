#include "daemon/memory/memory_file.h"

#include <fcntl.h>

#include <filesystem>
#include <string>

#include <doctest/doctest.h>

#include "base/file.h"
#include "daemon/snapshot/format/id_attribute.h"
#include "tests/unit/support/temp_dir.h"

using namespace vmmd;
using memory::open_memory_file;
using memory::remove_spare_name;
using testing::TempDir;
namespace fs = std::filesystem;

namespace {

constexpr std::uint64_t kSize = 1 << 20;
const std::string kId = "5b1a0c2e-0d3f-4a6b-8c9d-112233445566";

UniqueFd make_file(const fs::path& path) {
  auto fd = open_file(path, O_RDWR | O_CREAT, 0600);
  REQUIRE(fd);
  return std::move(*fd);
}

/// False where the filesystem keeps no extended attributes.
bool mark(const fs::path& path) {
  const UniqueFd fd = make_file(path);
  REQUIRE(snapshot::write_id_attribute(fd.get(), kId, "ram"));
  return snapshot::read_id_attribute(fd.get()).has_value();
}

void refused(const fs::path& path, std::initializer_list<std::string> parts) {
  const auto opened = open_memory_file(path, kSize);
  REQUIRE_FALSE(opened);
  CHECK(opened.error().code == ErrorCode::Conflict);
  for (const std::string& part : parts) {
    CAPTURE(part);
    CHECK(opened.error().to_string().find(part) != std::string::npos);
  }
}

}  // namespace

TEST_CASE("a memory file that a snapshot shares is refused with the name to remove") {
  const TempDir dir;
  if (!mark(dir / "ram")) return;
  fs::create_hard_link(dir / "ram", dir / "memory.bin");
  refused(dir / "ram", {kId, std::string("remove the name ") + (dir / "ram").c_str()});
}

TEST_CASE(
    "a snapshot's memory.bin is refused as memory file, under any name and without extended attributes") {
  const TempDir dir;
  make_file(dir / "memory.bin");
  make_file(dir / "manifest.bin");
  fs::create_symlink("memory.bin", dir / "ram");
  bool marked = true;
  SUBCASE("with the mark") {
    marked = mark(dir / "memory.bin");
  }
  SUBCASE("without") {}
  if (!marked) return;
  refused(dir / "memory.bin", {"give another file"});
  refused(dir / "ram", {"give another file"});
}

TEST_CASE("the mark of a snapshot that is gone is taken off a memory file") {
  const TempDir dir;
  if (!mark(dir / "ram")) return;
  const auto opened = open_memory_file(dir / "ram", kSize);
  if (!opened) FAIL(opened.error().to_string());
  CHECK_FALSE(snapshot::read_id_attribute(opened->get()));
}

TEST_CASE("a name is removed from the file that has another one") {
  const TempDir dir;
  const UniqueFd fd = make_file(dir / "ram");
  fs::create_hard_link(dir / "ram", dir / "memory.bin");
  std::string name = dir / "ram";
  SUBCASE("by its own name") {}
  SUBCASE("by a symbolic link, which stays") {
    fs::create_symlink(dir / "ram", dir / "link");
    name = dir / "link";
  }
  remove_spare_name(name, fd.get());
  CHECK_FALSE(fs::exists(dir / "ram"));
  CHECK(fs::exists(dir / "memory.bin"));
  CHECK(fs::is_symlink(name) == (name != std::string(dir / "ram")));
}

TEST_CASE("a name is kept that is the file's only one, or another file's") {
  const TempDir dir;
  const UniqueFd fd = make_file(dir / "ram");
  remove_spare_name(dir / "ram", fd.get());
  CHECK(fs::exists(dir / "ram"));
  fs::create_hard_link(dir / "ram", dir / "memory.bin");
  make_file(dir / "other");
  fs::create_hard_link(dir / "other", dir / "again");
  remove_spare_name(dir / "other", fd.get());
  CHECK(fs::exists(dir / "other"));
}
