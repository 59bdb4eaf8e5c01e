#include "devices/rate_limiter.h"

#include <limits>
#include <vector>

#include <doctest/doctest.h>

#include "tests/unit/support/fake_clock.h"

namespace vmmd::devices {
namespace {

constexpr std::uint64_t kMillisecond = 1'000'000;  // ns

/// Runs what is posted when the test says so.
class ManualLoop final : public EventLoop {
 public:
  void post(std::function<void()> work) override { work_.push_back(std::move(work)); }
  Result<std::unique_ptr<FdWatch>> watch(int /*fd*/, FdEvent /*event*/,
                                         std::function<void()> /*ready*/) override {
    return fail(ErrorCode::Internal, "no descriptors here");
  }
  void run() {
    std::vector<std::function<void()>> now;
    now.swap(work_);
    for (const auto& work : now) work();
  }

 private:
  std::vector<std::function<void()>> work_;
};

RateLimiter::Config bytes_limit(std::uint64_t size, std::uint64_t burst, std::uint64_t refill_ms) {
  return {.bandwidth = TokenBucketConfig{size, burst, refill_ms * kMillisecond}, .ops = std::nullopt};
}

struct Fixture {
  testing::FakeClock clock;
  ManualLoop loop;
  int ready = 0;

  RateLimited user(std::shared_ptr<RateLimiter> limiter) {
    return {std::move(limiter), loop, [this] { ++ready; }};
  }
  std::shared_ptr<RateLimiter> limiter(const RateLimiter::Config& config) {
    return std::make_shared<RateLimiter>(config, clock);
  }
};

TEST_CASE_FIXTURE(Fixture, "a bucket lets its size through at once and refuses more") {
  RateLimited disk = user(limiter(bytes_limit(1000, 0, 100)));
  CHECK(disk.take(700));
  CHECK_FALSE(disk.take(301));
  CHECK(disk.take(300));
}

TEST_CASE_FIXTURE(Fixture, "a bucket fills evenly and never above its size") {
  RateLimited disk = user(limiter(bytes_limit(1000, 0, 100)));
  REQUIRE(disk.take(1000));
  clock.advance(30 * kMillisecond);
  CHECK(disk.take(300));
  CHECK_FALSE(disk.take(1));
  clock.advance(1000 * kMillisecond);
  CHECK(disk.take(1000));
  CHECK_FALSE(disk.take(1));
}

TEST_CASE_FIXTURE(Fixture, "many small looks at the clock lose no tokens") {
  RateLimited disk = user(limiter(bytes_limit(7, 0, 1)));  // a token every 142857.14 ns
  REQUIRE(disk.take(7));
  int taken = 0;
  for (int i = 0; i < 1000; ++i) {
    clock.advance(1000);
    if (disk.take(1)) ++taken;
  }
  CHECK(taken >= 6);
  CHECK(taken <= 7);
}

TEST_CASE_FIXTURE(Fixture, "a burst is there once") {
  RateLimited disk = user(limiter(bytes_limit(100, 50, 10)));
  CHECK(disk.take(150 - 1));
  CHECK(disk.take(1));
  clock.advance(1000 * kMillisecond);
  CHECK(disk.take(100));
  CHECK_FALSE(disk.take(1));
}

TEST_CASE_FIXTURE(Fixture, "a request larger than the bucket passes and is paid for afterwards") {
  RateLimited disk = user(limiter(bytes_limit(1000, 0, 100)));
  CHECK(disk.take(3000));
  clock.advance(200 * kMillisecond);
  CHECK_FALSE(disk.take(1));
  clock.advance(100 * kMillisecond);
  CHECK(disk.take(1000));
}

TEST_CASE_FIXTURE(Fixture, "both buckets give or none does") {
  RateLimiter::Config config = bytes_limit(1000, 0, 100);
  config.ops = TokenBucketConfig{1, 0, 100 * kMillisecond};
  RateLimited disk = user(limiter(config));
  CHECK(disk.take(400));
  CHECK_FALSE(disk.take(400));  // the second request in this time: no bytes are taken for it
  clock.advance(100 * kMillisecond);
  CHECK(disk.take(1000));
}

TEST_CASE_FIXTURE(Fixture, "who was refused is called on its loop when its tokens are there, once") {
  RateLimited disk = user(limiter(bytes_limit(1000, 0, 100)));
  REQUIRE(disk.take(1000));
  REQUIRE_FALSE(disk.take(500));
  clock.advance(49 * kMillisecond);
  loop.run();
  CHECK(ready == 0);
  clock.advance(1 * kMillisecond);
  CHECK(ready == 0);  // on the loop, not inside the timer
  loop.run();
  CHECK(ready == 1);
  CHECK(disk.take(500));
  clock.advance(1000 * kMillisecond);
  loop.run();
  CHECK(ready == 1);
}

TEST_CASE_FIXTURE(Fixture, "an idle limiter has no timer armed") {
  RateLimited disk = user(limiter(bytes_limit(1000, 0, 100)));
  REQUIRE(disk.take(1000));
  CHECK(clock.armed_timers() == 0);
}

TEST_CASE_FIXTURE(Fixture, "a user that is gone is not called") {
  const auto shared = limiter(bytes_limit(1000, 0, 100));
  {
    RateLimited disk = user(shared);
    REQUIRE(disk.take(1000));
    REQUIRE_FALSE(disk.take(1));
    clock.advance(100 * kMillisecond);
  }
  loop.run();
  CHECK(ready == 0);
}

TEST_CASE_FIXTURE(Fixture, "users of one limiter share its tokens") {
  const auto shared = limiter(bytes_limit(1000, 0, 100));
  RateLimited first = user(shared);
  RateLimited second = user(shared);
  CHECK(first.take(600));
  CHECK_FALSE(second.take(401));
  CHECK(second.take(400));
}

TEST_CASE_FIXTURE(Fixture, "without a limiter, or with a size of 0, everything passes") {
  RateLimited none = user(nullptr);
  CHECK(none.take(std::numeric_limits<std::uint64_t>::max()));
  RateLimited zero = user(limiter(bytes_limit(0, 0, 100)));
  CHECK(zero.take(std::numeric_limits<std::uint64_t>::max()));
}

TEST_CASE_FIXTURE(Fixture, "the largest limits and requests do not overflow") {
  constexpr std::uint64_t kMost = std::numeric_limits<std::uint64_t>::max();
  const auto shared =
      limiter({.bandwidth = TokenBucketConfig{kMost, kMost, kMost}, .ops = TokenBucketConfig{1, 0, kMost}});
  RateLimited disk = user(shared);
  CHECK(disk.take(kMost));
  CHECK_FALSE(disk.take(kMost));
  CHECK(clock.next_deadline() > clock.monotonic_ns());
}

TEST_CASE_FIXTURE(Fixture, "what is left survives into a cold limiter") {
  const RateLimiter::Config config = bytes_limit(1000, 77, 100);
  state::RateLimiter saved;
  {
    RateLimited disk = user(limiter(config));
    REQUIRE(disk.take(1076));
    clock.advance(10 * kMillisecond);
    disk.limiter()->save(saved);
  }
  const auto cold = limiter(config);
  RateLimited disk = user(cold);
  cold->restore(saved);
  CHECK_FALSE(disk.take(102));  // 1 of before and 100 of the 10 ms
  CHECK(disk.take(101));
}

TEST_CASE_FIXTURE(Fixture, "a saved time ahead of the clock does not stop the bucket") {
  const RateLimiter::Config config = bytes_limit(1000, 0, 100);
  state::RateLimiter saved;
  saved.mutable_bandwidth()->set_tokens(-5);
  saved.mutable_bandwidth()->set_refilled_ns(std::numeric_limits<std::uint64_t>::max());
  const auto cold = limiter(config);
  RateLimited disk = user(cold);
  cold->restore(saved);
  CHECK_FALSE(disk.take(1));
  clock.advance(100 * kMillisecond);
  CHECK(disk.take(995));
}

TEST_CASE_FIXTURE(Fixture, "of what was saved a smaller bucket keeps what it holds") {
  state::RateLimiter saved;
  saved.mutable_bandwidth()->set_tokens(5000);
  saved.mutable_bandwidth()->set_burst(500);
  const auto smaller = limiter(bytes_limit(1000, 5, 100));
  smaller->restore(saved);
  RateLimited disk = user(smaller);
  CHECK(disk.take(1000));
  CHECK(disk.take(5));
  CHECK_FALSE(disk.take(1));
}

TEST_CASE_FIXTURE(Fixture, "no saved debt is so large that it overflows") {
  state::RateLimiter saved;
  saved.mutable_bandwidth()->set_tokens(std::numeric_limits<std::int64_t>::min());
  saved.mutable_bandwidth()->set_refilled_ns(clock.monotonic_ns());
  const auto cold = limiter(bytes_limit(1000, 0, 100));
  cold->restore(saved);
  RateLimited disk = user(cold);
  CHECK_FALSE(disk.take(1));
  CHECK(clock.next_deadline() > clock.monotonic_ns());
  state::RateLimiter again;
  cold->save(again);
  CHECK(again.bandwidth().tokens() == -(std::int64_t{1} << 56));
}

}  // namespace
}  // namespace vmmd::devices
