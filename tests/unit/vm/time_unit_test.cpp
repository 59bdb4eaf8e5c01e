#include "daemon/vm/time_unit.h"

#include <cstdint>

#include <doctest/doctest.h>

#include "proto/state.pb.h"

using namespace vmmd;

namespace {

devices::UnitState saved(std::uint64_t kvmclock, std::uint64_t realtime, std::uint64_t monotonic) {
  state::VirtualMachine message;
  message.set_kvmclock_ns(kvmclock);
  message.set_realtime_ns(realtime);
  message.set_guest_monotonic_ns(monotonic);
  return devices::pack_state(message);
}

}  // namespace

TEST_CASE("a guest's saved time is what the message says") {
  const auto time = vm::unpack_guest_time(saved(0x0102'0304'0506, 0x1819'1A1B'1C1D'1E1F, 0x2122'2324));
  REQUIRE(time);
  CHECK(time->kvmclock_ns == 0x0102'0304'0506);
  CHECK(time->realtime_ns == 0x1819'1A1B'1C1D'1E1F);
  CHECK(time->guest_monotonic_ns == 0x2122'2324);
}

TEST_CASE("a time that would wrap when it goes on is refused") {
  constexpr std::uint64_t kMost = std::uint64_t{1} << 62;
  CHECK(vm::unpack_guest_time(saved(kMost, kMost, kMost)));
  for (const auto& state : {saved(kMost + 1, 1, 1), saved(1, kMost + 1, 1), saved(1, 1, kMost + 1)}) {
    const auto time = vm::unpack_guest_time(state);
    REQUIRE_FALSE(time);
    CHECK(time.error().code == ErrorCode::BadRequest);
    CHECK(time.error().to_string().find("unit vm: 4611686018427387905 ns") != std::string::npos);
  }
}
