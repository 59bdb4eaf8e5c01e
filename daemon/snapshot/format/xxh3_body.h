// The body of xxh3_baseline.cpp and xxh3_avx2.cpp, which differ in compiler flags only. Includes nothing of
// C++'s library: an inline function of it, compiled for AVX2, could be the one that the linker keeps for
// everybody.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "daemon/snapshot/format/xxh3.h"

namespace vmmd::snapshot::xxh3 {
namespace {

static_assert(sizeof(XXH3_state_t) <= kStateSize);
static_assert(alignof(XXH3_state_t) <= kAlignment);

void store(XXH128_hash_t hash, void* digest) {
  XXH128_canonicalFromHash(static_cast<XXH128_canonical_t*>(digest), hash);
}
void reset(void* state) {
  XXH3_128bits_reset(static_cast<XXH3_state_t*>(state));
}
void update(void* state, const void* data, std::size_t size) {
  XXH3_128bits_update(static_cast<XXH3_state_t*>(state), data, size);
}
void finish(const void* state, void* digest) {
  store(XXH3_128bits_digest(static_cast<const XXH3_state_t*>(state)), digest);
}
void whole(const void* data, std::size_t size, void* digest) {
  store(XXH3_128bits(data, size), digest);
}

constexpr Functions kFunctions = {reset, update, finish, whole};

}  // namespace
}  // namespace vmmd::snapshot::xxh3
