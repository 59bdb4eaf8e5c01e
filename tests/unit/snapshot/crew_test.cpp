#include "daemon/snapshot/crew.h"

#include <atomic>
#include <future>
#include <memory>
#include <stop_token>
#include <thread>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

using namespace vmmd::snapshot;

namespace {

constexpr unsigned kCount = 3;

}  // namespace

TEST_CASE("a crew that nobody stops has done everything when it returns") {
  std::atomic<unsigned> done = 0;
  const auto work = [&done](Crew::Member& self) {
    for (int i = 0; i < 100; ++i) {
      unsigned seen = 0;
      if (!self.outside([&] { seen = 1; })) return;
      done += seen;
    }
  };
  bool left = false;
  Crew::run(kCount, work, {}, [&left](std::vector<std::jthread>) { left = true; });
  CHECK(done == kCount * 100);
  CHECK_FALSE(left);
}

TEST_CASE("who is outside when the stop comes is left behind and never comes in again") {
  std::stop_source stop;
  std::promise<void> disk;
  const auto answer = disk.get_future().share();
  std::atomic<unsigned> outside = 0;
  auto came_in = std::make_shared<std::atomic<unsigned>>(0);
  const auto work = [&, came_in, answer](Crew::Member& self) {
    const bool in = self.outside([&outside, &stop, answer] {
      if (++outside == kCount) stop.request_stop();
      answer.wait();
    });
    *came_in += in ? 1 : 0;
  };
  std::vector<std::jthread> left;
  Crew::run(kCount, work, stop.get_token(),
            [&left](std::vector<std::jthread> threads) { left = std::move(threads); });
  CHECK(left.size() == kCount);
  disk.set_value();
  left.clear();
  CHECK(*came_in == 0);
}

TEST_CASE("who is in when the stop comes is waited for") {
  std::stop_source stop;
  std::promise<void> disk;
  std::promise<void> waiting;
  const auto answer = disk.get_future().share();
  std::atomic<bool> first = true;
  bool done = false;
  const auto work = [&, answer](Crew::Member& self) {
    if (first.exchange(false)) {
      const bool in = self.outside([&waiting, answer] {
        waiting.set_value();
        answer.wait();
      });
      CHECK_FALSE(in);
      return;
    }
    waiting.get_future().wait();
    stop.request_stop();
    for (int i = 0; i < 1000; ++i) std::this_thread::yield();
    done = true;
  };
  std::vector<std::jthread> left;
  Crew::run(2, work, stop.get_token(),
            [&left](std::vector<std::jthread> threads) { left = std::move(threads); });
  CHECK(done);
  CHECK(left.size() == 2);
  disk.set_value();
}

TEST_CASE("without anybody to take them over, those outside are waited for") {
  std::stop_source stop;
  std::atomic<unsigned> returned = 0;
  const auto work = [&](Crew::Member& self) {
    const bool in = self.outside([&stop] {
      stop.request_stop();
      for (int i = 0; i < 1000; ++i) std::this_thread::yield();
    });
    returned += in ? 1 : 0;
  };
  Crew::run(kCount, work, stop.get_token(), {});
  CHECK(returned == kCount);
}
