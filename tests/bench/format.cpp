// How long the format library takes over a snapshot: bench-format check|verify DIR ROUNDS. Microseconds, one
// a line.

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "daemon/snapshot/format/open.h"
#include "daemon/snapshot/format/verify.h"

namespace {

vmmd::Status look_at(const char* path, bool verify) {
  VMMD_ASSIGN(const auto snapshot, vmmd::snapshot::open_snapshot(path));
  if (!verify) return {};
  VMMD_ASSIGN(const auto report, vmmd::snapshot::verify_memory(snapshot));
  if (!report.damaged.empty()) return vmmd::fail(vmmd::ErrorCode::BadRequest, "memory.bin is damaged");
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: bench-format check|verify DIR ROUNDS\n");
    return 2;
  }
  const bool verify = std::string_view(argv[1]) == "verify";
  for (int round = std::atoi(argv[3]); round > 0; --round) {
    const auto start = std::chrono::steady_clock::now();
    const auto looked = look_at(argv[2], verify);
    const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - start;
    if (!looked) {
      std::fprintf(stderr, "%s\n", looked.error().to_string().c_str());
      return 1;
    }
    std::printf("%.1f\n", took.count());
  }
  return 0;
}
