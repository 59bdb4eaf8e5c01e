#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace vmmd::net {

/// A network interface of the host, by name, in the network namespace of who asks. What is as it should be
/// already is not set again, so that a tap that an administrator prepared needs no privileges.
class Interface {
 public:
  /// `name`: at most 15 bytes.
  static Result<Interface> open(const std::string& name);

  [[nodiscard]] Result<unsigned> mtu() const;
  Status set_mtu(unsigned mtu);
  Status set_mac(const std::array<std::uint8_t, 6>& mac);
  /// IPv4 or IPv6, and a netmask of the same kind; the kernel's choice of one without.
  Status set_address(const std::string& ip, const std::string& mask);
  Status bring_up();

 private:
  Interface(std::string name, UniqueFd socket) : name_(std::move(name)), socket_(std::move(socket)) {}
  Status set_ipv6(const std::string& ip, const std::string& mask);

  std::string name_;
  UniqueFd socket_;
};

/// Whether `ip` is an address, and `mask` (may be empty) a netmask for it: ones, then zeros.
[[nodiscard]] bool is_ip_and_mask(const std::string& ip, const std::string& mask);

}  // namespace vmmd::net
