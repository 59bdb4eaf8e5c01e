#pragma once

#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <filesystem>
#include <limits>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>

#include <doctest/doctest.h>

#include "base/unique_fd.h"
#include "daemon/chardev/factory.h"
#include "tests/unit/support/await.h"

namespace vmmd::testing {

inline std::span<const std::byte> bytes(std::string_view text) {
  return std::as_bytes(std::span(text));
}

/// `size` bytes in which a lost, doubled or swapped one shows.
inline std::string pattern(std::size_t size) {
  std::string text(size, '\0');
  std::uint32_t x = 1;
  for (char& c : text) {
    x = x * 1664525 + 1013904223;
    c = static_cast<char>(x >> 24);
  }
  return text;
}

/// Reads exactly `size` bytes; fewer at end of file, or when nothing comes for kDeadline.
inline std::string read_exactly(int fd, std::size_t size) {
  std::string text(size, '\0');
  std::size_t done = 0;
  while (done < size) {
    pollfd ready = {.fd = fd, .events = POLLIN, .revents = 0};
    if (::poll(&ready, 1, 1000 * static_cast<int>(kDeadline.count())) <= 0) break;
    const ssize_t n = ::read(fd, text.data() + done, size - done);
    if (n <= 0) break;
    done += static_cast<std::size_t>(n);
  }
  text.resize(done);
  return text;
}

inline bool write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(fd, text.data(), text.size());
    if (n <= 0) return false;
    text.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

/// A device with as much room as the test gives it.
class Guest final : public devices::CharReceiver {
 public:
  explicit Guest(std::size_t room = std::numeric_limits<std::size_t>::max()) : room_(room) {}

  std::size_t receive(std::span<const std::byte> data) override {
    const std::lock_guard lock(mutex_);
    const std::size_t taken = std::min(room_, data.size());
    room_ -= taken;
    for (const std::byte byte : data.first(taken)) text_.push_back(static_cast<char>(byte));
    if (taken < data.size()) ++refusals_;
    changed_.notify_all();
    return taken;
  }
  void make_room(std::size_t room) {
    const std::lock_guard lock(mutex_);
    room_ = room;
  }
  /// All that came, once it is at least `size` bytes (or kDeadline has passed).
  std::string wait_for(std::size_t size) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, kDeadline, [&] { return text_.size() >= size; });
    return text_;
  }
  void resized() override {
    const std::lock_guard lock(mutex_);
    ++resizes_;
    changed_.notify_all();
  }
  bool wait_for_resize() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kDeadline, [&] { return resizes_ > 0; });
  }
  bool wait_for_refusal() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kDeadline, [&] { return refusals_ > 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::size_t room_;
  std::string text_;
  unsigned refusals_ = 0;
  unsigned resizes_ = 0;
};

/// A directory of the test's own, gone at its end.
class TempDir {
 public:
  TempDir() {
    std::string name = (std::filesystem::temp_directory_path() / "vmmd-chardev-XXXXXX").native();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  [[nodiscard]] std::string operator/(std::string_view name) const { return (path_ / name).native(); }

 private:
  std::filesystem::path path_;
};

/// A running loop and backends on it.
struct Host {
  loop::DeviceLoop loop;
  Host() { REQUIRE(loop.start()); }
  std::unique_ptr<devices::CharBackend> make(chardev::CharMode mode, std::string path = {}) {
    auto backend = chardev::make_char_backend({mode, std::move(path)}, loop);
    if (!backend) FAIL(backend.error().to_string());
    return std::move(*backend);
  }
  Error refuse(chardev::CharMode mode, std::string path = {}) {
    auto backend = chardev::make_char_backend({mode, std::move(path)}, loop);
    REQUIRE_FALSE(backend);
    return backend.error();
  }
  /// Everything posted so far has run.
  void settle() {
    loop.run_sync([] {});
  }
};

}  // namespace vmmd::testing
