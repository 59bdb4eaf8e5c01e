#include "api/validate_networks.h"

#include <bit>
#include <cstdint>
#include <map>
#include <string>

#include "api/mac_address.h"

namespace vmmd::api {

namespace {

constexpr unsigned kMaxQueues = 62;       // 31 pairs; a device has 64 queues with the control queue
constexpr unsigned kMaxQueueSize = 1024;  // entries
constexpr unsigned kMinQueueSize = 32;    // entries
constexpr unsigned kMinMtu = 1280;        // bytes, RFC 8200; Cloud Hypervisor's limit too

void check_network(const std::string& at, const NetConfig& net, bool boots, Findings& findings) {
  const auto bad = [&](std::string_view field, const std::string& message) {
    findings.add(ErrorCode::BadRequest, fmt::format("{}/{}", at, field), "{}", message);
  };
  if (net.vhost_user || net.vhost_socket) {
    findings.add(ErrorCode::NotSupported, at + "/vhost_user", "vhost-user is not built yet");
  }
  if (int{net.tap.has_value()} + int{!net.fds.empty()} + int{net.passt.has_value()} > 1) {
    bad("tap", "a network is one of tap, fds and passt");
  }
  if (net.num_queues % 2 != 0 || net.num_queues > kMaxQueues) {
    bad("num_queues",
        fmt::format("{} is not an even number up to {}: two for each pair", net.num_queues, kMaxQueues));
  }
  if (!std::has_single_bit(net.queue_size) || net.queue_size > kMaxQueueSize) {
    bad("queue_size", fmt::format("{} is not a power of two up to {}", net.queue_size, kMaxQueueSize));
  } else if (boots && net.queue_size < kMinQueueSize) {
    bad("queue_size",
        fmt::format(
            "{} is less than {}: Linux sends only while there is room for a frame of 19 buffers, and a "
            "smaller queue stands still",
            net.queue_size, kMinQueueSize));
  }
  if (!net.fds.empty() && 2 * net.fds.size() != net.num_queues) {
    bad("fds", fmt::format("{} queues need {} descriptors, one for each pair; {} are given", net.num_queues,
                           net.num_queues / 2, net.fds.size()));
  }
  if (net.mtu && *net.mtu < kMinMtu) bad("mtu", fmt::format("{} is less than {}", *net.mtu, kMinMtu));
  if (net.mask && !net.ip) bad("mask", "a netmask needs an ip");
  for (const auto& [name, mac] : {std::pair("mac", &net.mac), std::pair("host_mac", &net.host_mac)}) {
    if (!*mac) continue;
    if (const auto parsed = parse_mac(**mac); !parsed) bad(name, parsed.error().to_string());
  }
  if (net.passt && net.num_queues != 2) bad("num_queues", "passt has one queue pair");
  if (net.passt && (net.ip || net.host_mac)) bad("passt", "the host has no interface to give ip or host_mac");
  if (!net.fds.empty() && (net.ip || net.host_mac)) {
    bad("fds", "who opened a tap sets it up: ip and host_mac are for taps by name");
  }
}

}  // namespace

void check_networks(const VmConfig& config, bool boots, Findings& findings) {
  std::map<std::string, std::string> taps;  // name to pointer
  for (std::size_t i = 0; i < config.net.size(); ++i) {
    const std::string at = fmt::format("/net/{}", i);
    check_network(at, config.net[i], boots, findings);
    if (!config.net[i].tap) continue;
    if (const auto [it, first] = taps.emplace(*config.net[i].tap, at + "/tap"); !first) {
      findings.add(ErrorCode::Conflict, at + "/tap", "\"{}\" is used by {} too", it->first, it->second);
    }
  }
}

}  // namespace vmmd::api
