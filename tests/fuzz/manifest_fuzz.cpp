// A hostile snapshot directory: manifest.bin and state.bin of any content. The digest would stop nearly every
// input at the door, so two of three ways in bring a correct one, as an attacker would.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "daemon/snapshot/format/digest.h"
#include "daemon/snapshot/format/layout.h"
#include "daemon/snapshot/format/manifest.h"

using namespace vmmd;
using namespace vmmd::snapshot;

namespace {

/// `body` with the last field that makes it a manifest.bin.
std::string sealed(std::string_view body) {
  std::string bytes(body);
  bytes += std::string_view("\xFA\xFF\xFF\xFF\x0F\x10", 6);
  bytes += Digest::of(body).to_bytes();
  return bytes;
}

void check_manifest(const Result<SnapshotManifest>& manifest) {
  if (!manifest) return;
  Problems problems;
  validate_manifest(*manifest, problems);
  if (!problems.empty()) return;
  // What is valid must be safe to use: ranges add up, and every offset has an address.
  std::uint64_t sum = 0;
  for (const MemoryRange& range : manifest->memory_layout()) sum += range.length();
  if (sum != manifest->memory_size_bytes()) std::abort();
  if (guest_address_of(*manifest, sum - 1) < sum - 1) std::abort();
  // And it stays valid when it is written again.
  if (!decode_manifest(encode_manifest(*manifest))) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  std::string_view input(reinterpret_cast<const char*>(data), size);
  const unsigned way = data[0] % 3;
  input.remove_prefix(1);
  if (way == 0) {
    check_manifest(decode_manifest(input));
  } else if (way == 1) {
    check_manifest(decode_manifest(sealed(input)));
  } else if (const auto state = decode_state(input)) {
    SnapshotManifest manifest;
    for (const state::SavedUnit& unit : state->units()) manifest.add_units()->set_name(unit.name());
    Problems problems;
    validate_state(*state, manifest, problems);
  }
  return 0;
}
