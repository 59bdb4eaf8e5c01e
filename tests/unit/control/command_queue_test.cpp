#include "daemon/control/command_queue.h"

#include <pthread.h>
#include <signal.h>

#include <future>
#include <memory>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

using vmmd::control::CommandQueue;

namespace {

// Runs `what` on the queue and waits for it.
template <class F>
auto on_queue(CommandQueue& queue, F what) {
  std::packaged_task<std::invoke_result_t<F>()> task(std::move(what));
  auto result = task.get_future();
  auto shared = std::make_shared<decltype(task)>(std::move(task));
  queue.post([shared] { (*shared)(); });
  return result.get();
}

}  // namespace

TEST_CASE("commands run in the order in which they were posted") {
  CommandQueue queue;
  std::vector<int> ran;
  queue.start();
  for (int i = 0; i < 1000; ++i) queue.post([&ran, i] { ran.push_back(i); });
  queue.close();
  REQUIRE(ran.size() == 1000);
  for (int i = 0; i < 1000; ++i) CHECK(ran[static_cast<std::size_t>(i)] == i);
}

TEST_CASE("what is posted before the start waits for it") {
  CommandQueue queue;
  bool ran = false;
  queue.post([&ran] { ran = true; });
  CHECK_FALSE(ran);
  queue.start();
  queue.close();
  CHECK(ran);
}

TEST_CASE("all commands run on one thread, which is not the caller's") {
  CommandQueue queue;
  queue.start();
  const auto first = on_queue(queue, [] { return std::this_thread::get_id(); });
  const auto second = on_queue(queue, [] { return std::this_thread::get_id(); });
  CHECK(first == second);
  CHECK(first != std::this_thread::get_id());
}

TEST_CASE("close runs what is queued, and drops what comes later") {
  CommandQueue queue;
  std::vector<int> ran;
  std::promise<void> go;
  queue.start();
  queue.post([&go] { go.get_future().wait(); });
  queue.post([&ran] { ran.push_back(1); });
  queue.post([&] {
    ran.push_back(2);
    queue.post([&ran] { ran.push_back(4); });  // closed by then or not: either way it is behind 3
  });
  queue.post([&ran] { ran.push_back(3); });
  go.set_value();
  queue.close();
  queue.post([&ran] { ran.push_back(5); });
  queue.close();
  if (ran.size() == 4) ran.pop_back();
  CHECK(ran == std::vector<int>{1, 2, 3});
}

TEST_CASE("a command may post another one") {
  CommandQueue queue;
  queue.start();
  std::promise<int> answer;
  queue.post([&] { queue.post([&answer] { answer.set_value(7); }); });
  CHECK(answer.get_future().get() == 7);
}

TEST_CASE("commands posted by many threads all run") {
  CommandQueue queue;
  queue.start();
  int ran = 0;  // touched by the VM thread alone
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        for (int n = 0; n < 500; ++n) queue.post([&ran] { ++ran; });
      });
    }
  }
  queue.close();
  CHECK(ran == 2000);
}

TEST_CASE("a queue that was never started ends without running anything") {
  bool ran = false;
  {
    CommandQueue queue;
    queue.post([&ran] { ran = true; });
  }
  CHECK_FALSE(ran);
}

TEST_CASE("the VM thread blocks signals, and the caller's mask stays as it was") {
  sigset_t before;
  pthread_sigmask(SIG_SETMASK, nullptr, &before);
  CommandQueue queue;
  queue.start();
  const auto mask = on_queue(queue, [] {
    sigset_t set;
    pthread_sigmask(SIG_SETMASK, nullptr, &set);
    return set;
  });
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) CHECK(sigismember(&mask, signal) == 1);
  sigset_t after;
  pthread_sigmask(SIG_SETMASK, nullptr, &after);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) {
    CHECK(sigismember(&after, signal) == sigismember(&before, signal));
  }
}
