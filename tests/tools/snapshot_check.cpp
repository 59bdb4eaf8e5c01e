// snapshot-check DIR…: is it a snapshot, by the library that vmmd and vmm-remote use? One line per directory:
//   absent | complete | complete, memory not known | torn: PROBLEMS | damaged: OFFSET+LENGTH…
// Memory is verified wherever the snapshot has digests of it. Exit code 0 only if all are complete.
#include <cstdio>
#include <string>

#include <fmt/format.h>

#include "daemon/snapshot/format/open.h"
#include "daemon/snapshot/format/verify.h"

namespace {

using namespace vmmd;

std::string judge(const char* path) {
  const auto opened = snapshot::open_snapshot(path);
  if (!opened) {
    if (opened.error().code == ErrorCode::NotFound) return "absent";
    return "torn: " + opened.error().to_string();
  }
  if (!opened->digests) return "complete, memory not known";
  const auto verified = snapshot::verify_memory(*opened);
  if (!verified) return "torn: " + verified.error().to_string();
  if (verified->damaged.empty()) return "complete";
  std::string line = "damaged:";
  for (const snapshot::DamagedRange& range : verified->damaged)
    line += fmt::format(" {:#x}+{:#x}", range.file_offset, range.length);
  return line;
}

}  // namespace

int main(int argc, char** argv) {
  bool good = argc > 1;
  for (int i = 1; i < argc; ++i) {
    const std::string verdict = judge(argv[i]);
    good = good && verdict.starts_with("complete");
    std::puts(verdict.c_str());
  }
  return good ? 0 : 1;
}
