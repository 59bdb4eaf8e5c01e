#pragma once

#include <sys/eventfd.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "base/unique_fd.h"
#include "devices/net_backend.h"

namespace vmmd::testing {

/// A network that the test plays. For one thread.
class FakeNetBackend final : public devices::NetBackend {
 public:
  explicit FakeNetBackend(unsigned pairs = 1, std::uint64_t offloads = ~std::uint64_t{0})
      : pairs_(pairs), offloads_(offloads), incoming(pairs) {
    for (unsigned i = 0; i < pairs; ++i) fds_.emplace_back(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  }

  [[nodiscard]] std::string name() const override { return "fake"; }
  [[nodiscard]] unsigned pairs() const override { return pairs_; }
  [[nodiscard]] std::uint64_t offloads() const override { return offloads_; }
  Status set_guest_offloads(std::uint64_t features) override {
    guest_offloads = features;
    return {};
  }
  Status enable_pairs(unsigned active) override {
    active_pairs = active;
    return {};
  }
  [[nodiscard]] int fd(unsigned pair) const override { return error.empty() ? fds_.at(pair).get() : -1; }
  [[nodiscard]] std::string failure() const override { return error; }

  devices::NetIo send(unsigned pair, std::span<const iovec> frame) override {
    if (!error.empty()) return devices::NetIo::Failed;
    if (send_answer != devices::NetIo::Done) return std::exchange(send_answer, devices::NetIo::Done);
    std::string bytes;
    for (const iovec& part : frame) bytes.append(static_cast<const char*>(part.iov_base), part.iov_len);
    sent.emplace_back(pair, std::move(bytes));
    return devices::NetIo::Done;
  }
  devices::NetIo receive(unsigned pair, std::span<const iovec> buffers, std::size_t& size) override {
    if (!error.empty()) return devices::NetIo::Failed;
    if (incoming[pair].empty()) {
      eventfd_t count = 0;
      static_cast<void>(::eventfd_read(fds_[pair].get(), &count));
      return devices::NetIo::Again;
    }
    const std::string frame = std::move(incoming[pair].front());
    incoming[pair].pop_front();
    std::size_t done = 0;
    for (const iovec& part : buffers) {
      const std::size_t length = std::min(part.iov_len, frame.size() - done);
      std::memcpy(part.iov_base, frame.data() + done, length);
      done += length;
    }
    size = frame.size();
    return done == frame.size() ? devices::NetIo::Done : devices::NetIo::Dropped;
  }

  /// A frame comes in; a header of zeros is put in front of it.
  void arrive(std::string_view frame, unsigned pair = 0) {
    incoming[pair].push_back(std::string(devices::kNetHeaderSize, '\0') + std::string(frame));
    ::eventfd_write(fds_[pair].get(), 1);
  }
  /// The host's end is gone; whoever watches it is woken.
  void fail(std::string why) {
    error = std::move(why);
    for (const UniqueFd& fd : fds_) ::eventfd_write(fd.get(), 1);
  }

 private:
  unsigned pairs_;
  std::uint64_t offloads_;
  std::vector<UniqueFd> fds_;

 public:
  std::vector<std::deque<std::string>> incoming;
  std::vector<std::pair<unsigned, std::string>> sent;  // pair, header and frame
  devices::NetIo send_answer = devices::NetIo::Done;   // of the next send()
  std::uint64_t guest_offloads = 0;
  unsigned active_pairs = 0;
  std::string error;
};

}  // namespace vmmd::testing
