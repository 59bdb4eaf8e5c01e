#pragma once

#include <cstddef>

// XXH3-128 with the widest vectors that this CPU has. Debian's libxxhash is built for the x86-64 baseline
// (SSE2), which is half as fast as reading memory.bin from the page cache.
namespace vmmd::snapshot::xxh3 {

inline constexpr std::size_t kStateSize = 1024;  // bytes, at least sizeof(XXH3_state_t)
inline constexpr std::size_t kAlignment = 64;    // of the state

/// One implementation. `state` is kStateSize bytes, aligned; digests are canonical, 16 bytes. States and
/// functions of different implementations must not be mixed.
struct Functions {
  void (*reset)(void* state);
  void (*update)(void* state, const void* data, std::size_t size);
  void (*finish)(const void* state, void* digest);
  void (*whole)(const void* data, std::size_t size, void* digest);
};

[[nodiscard]] Functions baseline();
[[nodiscard]] Functions avx2();  // only where the CPU and the kernel have AVX2

}  // namespace vmmd::snapshot::xxh3
