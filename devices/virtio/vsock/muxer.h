#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "base/unix_socket.h"
#include "devices/virtio/vsock/connection.h"

namespace vmmd::devices {

/// All streams of a guest, and the hybrid Unix-socket protocol of Firecracker and Cloud Hypervisor:
///
/// - A host program connects to the socket, sends "CONNECT <guest port>\n" and gets "OK <host port>\n" when
///   the guest has accepted; otherwise its socket is closed.
/// - A guest that connects to port P of the host (CID 2) reaches the Unix socket "<path>_<P>".
///
/// Whatever the guest sends that belongs to no stream is answered with RST. All is bounded: the connections,
/// those that have not yet said what they want, and the RSTs that wait (then the guest's packets wait).
/// Everything is on the device's loop; but reset() may be called on any thread while suspended.
class VsockMuxer {
 public:
  static constexpr std::size_t kMaxConnections = 1024;
  static constexpr std::size_t kMaxGreetings = 64;
  static constexpr std::size_t kMaxStrays = 256;
  static constexpr std::uint32_t kFirstPort = 1U << 30;  // of the host's ends of streams to the guest

  /// The host's side of the device.
  struct Host {
    int listener = -1;  // does not block
    std::string path;
    std::size_t max_connections = kMaxConnections;  // at most kMaxConnections; two descriptors each
  };
  struct Counters {
    std::atomic<std::int64_t> connections = 0;  // open now
    std::atomic<std::int64_t> opened = 0;
    std::atomic<std::int64_t> refused = 0;  // by the host: no such socket, or the limit
    std::atomic<std::int64_t> strays = 0;   // packets that belonged to no stream
    std::atomic<std::int64_t> dropped = 0;  // packets that were none
    std::atomic<std::int64_t> rx_bytes = 0;
    std::atomic<std::int64_t> tx_bytes = 0;
  };

  /// `want_send` is called on the loop when there may be something to send outside of receive() and fill().
  VsockMuxer(EventLoop& loop, Host host, std::function<void()> want_send);

  /// Waits for sockets again, or not any more. Host programs that connect are heard only while `accept`.
  void resume(std::uint64_t guest_cid, bool accept);
  void accept();
  void suspend();

  /// A packet from the guest. False: not now, since !can_receive(); offer it again.
  [[nodiscard]] bool receive(const Chain& chain);
  [[nodiscard]] bool can_receive() const { return strays_.size() < kMaxStrays; }
  /// Writes the next packet for the guest into `chain` and returns its length; nothing if there is none.
  [[nodiscard]] std::optional<std::uint32_t> fill(const Chain& chain);
  [[nodiscard]] bool wants_to_send() const { return !strays_.empty() || !ready_.empty(); }

  /// Closes everything.
  void reset();

  [[nodiscard]] std::uint32_t next_port() const { return next_port_; }
  void set_next_port(std::uint32_t port) { next_port_ = port; }
  [[nodiscard]] const Counters& counters() const { return counters_; }

 private:
  struct Stream {
    Stream(VsockPorts ports, UniqueFd socket, bool from_guest, VsockConnection::Changed changed)
        : connection(ports, std::move(socket), from_guest, std::move(changed)) {}
    VsockConnection connection;
    bool ready = false;  // is in ready_
  };
  using Streams = std::map<VsockPorts, Stream>;
  /// A host program that has not yet said which port it wants.
  struct Greeting {
    UniqueFd socket;
    std::string line;
    std::unique_ptr<FdWatch> watch;
  };

  void on_listener();
  void listen_to(std::uint64_t id);
  void on_greeting(std::uint64_t id);
  void connect_guest(UniqueFd socket, std::uint32_t guest_port);
  void connect_host(const VsockPorts& ports, const VsockHeader& request);
  Stream& open(const VsockPorts& ports, UniqueFd socket, bool from_guest);
  [[nodiscard]] bool has_room();
  [[nodiscard]] std::optional<std::uint32_t> free_port();
  void on_stream(VsockPorts ports);
  void update(Streams::iterator stream);
  Streams::iterator drop(Streams::iterator stream);
  void refuse(const VsockHeader& packet);

  EventLoop& loop_;
  const Host host_;
  const std::function<void()> want_send_;
  std::uint64_t guest_cid_ = 0;
  bool running_ = false;
  bool accepting_ = false;
  std::uint32_t next_port_ = kFirstPort;
  Streams streams_;
  std::deque<VsockPorts> ready_;                 // streams that want to send, each once
  std::deque<VsockHeader> strays_;               // RSTs for what belongs to no stream
  std::map<std::uint64_t, Greeting> greetings_;  // oldest first
  std::uint64_t next_greeting_ = 0;
  Acceptor acceptor_;
  std::unique_ptr<FdWatch> listener_watch_;
  Counters counters_;
};

}  // namespace vmmd::devices
