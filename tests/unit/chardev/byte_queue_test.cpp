#include "daemon/chardev/byte_queue.h"

#include <deque>

#include "tests/unit/chardev/support.h"

using vmmd::chardev::ByteQueue;
using vmmd::testing::bytes;

namespace {
std::string contents(const ByteQueue& queue) {
  std::string text(queue.size(), '\0');
  REQUIRE(queue.peek(std::as_writable_bytes(std::span(text))) == text.size());
  return text;
}
}  // namespace

TEST_CASE("a queue takes what fits and says how much") {
  ByteQueue queue(5);
  CHECK(queue.push(bytes("abc")) == 3);
  CHECK(queue.push(bytes("defg")) == 2);
  CHECK(queue.push(bytes("h")) == 0);
  CHECK(contents(queue) == "abcde");
}

TEST_CASE("push_newest forgets the oldest and counts them") {
  ByteQueue queue(100);
  CHECK(queue.push_newest(bytes("abc"), 4) == 0);
  CHECK(queue.push_newest(bytes("de"), 4) == 1);
  CHECK(contents(queue) == "bcde");
  CHECK(queue.push_newest(bytes("0123456789"), 4) == 10);
  CHECK(contents(queue) == "6789");
}

TEST_CASE("trim keeps the newest") {
  ByteQueue queue(100);
  queue.push(bytes("abcdef"));
  CHECK(queue.trim(2) == 4);
  CHECK(contents(queue) == "ef");
  CHECK(queue.trim(2) == 0);
}

TEST_CASE("the ring keeps order over many wraps and growths") {
  ByteQueue queue(1000);
  std::deque<char> model;
  const std::string text = vmmd::testing::pattern(60'000);
  std::size_t at = 0;
  for (std::size_t step = 1; at + 97 < text.size(); ++step) {
    const std::string_view chunk = std::string_view(text).substr(at, step % 97);
    const std::size_t taken = queue.push(bytes(chunk));
    model.insert(model.end(), chunk.begin(), chunk.begin() + static_cast<std::ptrdiff_t>(taken));
    at += chunk.size();
    const std::size_t pops = std::min(model.size(), (step * 31) % 96);
    queue.pop(pops);
    model.erase(model.begin(), model.begin() + static_cast<std::ptrdiff_t>(pops));
    REQUIRE(contents(queue) == std::string(model.begin(), model.end()));
  }
}
