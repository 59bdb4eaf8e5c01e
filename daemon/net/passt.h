#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "devices/net_backend.h"

namespace vmmd::net {

/// User-mode networking: a running `passt` (or whatever speaks the same) on its Unix stream socket. Each
/// frame has its length in front, four bytes, big endian. One queue pair, no offloads. What the peer sends is
/// not trusted: a length that no frame has ends the connection.
class PasstBackend final : public devices::NetBackend {
 public:
  /// Never waits: a listener with a full backlog is an error.
  static Result<std::unique_ptr<PasstBackend>> connect(const std::string& path);

  [[nodiscard]] std::string name() const override { return "passt at \"" + path_ + "\""; }
  [[nodiscard]] unsigned pairs() const override { return 1; }
  [[nodiscard]] std::uint64_t offloads() const override { return 0; }
  Status set_guest_offloads(std::uint64_t) override { return {}; }
  Status enable_pairs(unsigned) override { return {}; }
  [[nodiscard]] int fd(unsigned) const override { return failure_.empty() ? socket_.get() : -1; }
  devices::NetIo send(unsigned pair, std::span<const iovec> frame) override;
  devices::NetIo receive(unsigned pair, std::span<const iovec> buffers, std::size_t& size) override;
  [[nodiscard]] std::string failure() const override { return failure_; }

 private:
  PasstBackend(std::string path, UniqueFd socket);
  devices::NetIo failed(std::string why);
  devices::NetIo finish_frame();
  devices::NetIo fill();

  std::string path_;
  UniqueFd socket_;
  std::vector<iovec> parts_;    // of send()
  std::vector<std::byte> out_;  // what is left of a frame that went in part
  std::size_t out_sent_ = 0;
  std::vector<std::byte> in_;  // received and not yet taken: [in_begin_, in_end_)
  std::size_t in_begin_ = 0;
  std::size_t in_end_ = 0;
  std::string failure_;
};

}  // namespace vmmd::net
