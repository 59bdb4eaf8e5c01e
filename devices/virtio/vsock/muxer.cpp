#include "devices/virtio/vsock/muxer.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <string_view>
#include <utility>

namespace vmmd::devices {

namespace {

constexpr std::string_view kConnect = "CONNECT ";
constexpr std::size_t kMaxLine = 32;
constexpr unsigned kAcceptBatch = 16;

/// The port of "CONNECT <port>", without the newline; a carriage return before it is forgiven.
std::optional<std::uint32_t> parse_connect(std::string_view line) {
  if (line.ends_with('\r')) line.remove_suffix(1);
  if (!line.starts_with(kConnect)) return std::nullopt;
  line.remove_prefix(kConnect.size());
  std::uint32_t port = 0;
  const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), port);
  if (error != std::errc() || end != line.data() + line.size()) return std::nullopt;
  return port;
}

}  // namespace

VsockMuxer::VsockMuxer(EventLoop& loop, Host host, std::function<void()> want_send)
    : loop_(loop), host_(std::move(host)), want_send_(std::move(want_send)) {}

void VsockMuxer::resume(std::uint64_t guest_cid, bool accept) {
  guest_cid_ = guest_cid;
  running_ = true;
  for (auto stream = streams_.begin(); stream != streams_.end();) update(stream++);
  for (const auto& greeting : greetings_) listen_to(greeting.first);
  if (accept) this->accept();
}

void VsockMuxer::accept() {
  accepting_ = true;
  if (!running_ || listener_watch_ != nullptr || host_.listener < 0) return;
  auto watch = loop_.watch(host_.listener, FdEvent::Readable, [this] { on_listener(); });
  if (watch) listener_watch_ = std::move(*watch);
}

void VsockMuxer::suspend() {
  running_ = false;
  accepting_ = false;
  listener_watch_.reset();
  for (auto& greeting : greetings_) greeting.second.watch.reset();
  for (auto& stream : streams_) stream.second.connection.suspend();
}

void VsockMuxer::reset() {
  streams_.clear();
  greetings_.clear();
  ready_.clear();
  strays_.clear();
  counters_.connections = 0;
}

// ---- host programs that want to reach the guest ----

void VsockMuxer::on_listener() {
  for (unsigned i = 0; i < kAcceptBatch; ++i) {
    auto socket = acceptor_.accept(host_.listener);
    if (!socket) listener_watch_.reset();  // until a stream ends
    if (!socket || !*socket) return;
    if (greetings_.size() >= kMaxGreetings) greetings_.erase(greetings_.begin());
    const std::uint64_t id = next_greeting_++;
    greetings_[id].socket = std::move(*socket);
    listen_to(id);
  }
}

void VsockMuxer::listen_to(std::uint64_t id) {
  Greeting& greeting = greetings_.at(id);
  if (greeting.watch != nullptr) return;
  auto watch = loop_.watch(greeting.socket.get(), FdEvent::Readable, [this, id] { on_greeting(id); });
  if (watch) greeting.watch = std::move(*watch);
}

// Byte by byte, because what follows the line is the stream's.
void VsockMuxer::on_greeting(std::uint64_t id) {
  Greeting& greeting = greetings_.at(id);
  for (;;) {
    char byte = 0;
    const ssize_t n = ::recv(greeting.socket.get(), &byte, 1, MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return;
    if (n == 1 && byte != '\n' && greeting.line.size() < kMaxLine) {
      greeting.line.push_back(byte);
      continue;
    }
    const auto port = n == 1 && byte == '\n' ? parse_connect(greeting.line) : std::nullopt;
    greeting.watch.reset();
    UniqueFd socket = std::move(greeting.socket);
    greetings_.erase(id);
    if (port) connect_guest(std::move(socket), *port);
    if (accepting_) accept();
    return;
  }
}

void VsockMuxer::connect_guest(UniqueFd socket, std::uint32_t guest_port) {
  const auto port = has_room() ? free_port() : std::nullopt;
  if (!port) {
    ++counters_.refused;
    return;
  }
  const VsockPorts ports{.host = *port, .guest = guest_port};
  open(ports, std::move(socket), false);
  update(streams_.find(ports));
  want_send_();
}

// Host programs that gave up on a guest that does not answer make room for others.
bool VsockMuxer::has_room() {
  if (streams_.size() < host_.max_connections) return true;
  for (auto stream = streams_.begin(); stream != streams_.end();) {
    stream = stream->second.connection.abandoned() ? drop(stream) : std::next(stream);
  }
  return streams_.size() < host_.max_connections;
}

// Ports are not used again soon: the guest may still know the last stream of one.
std::optional<std::uint32_t> VsockMuxer::free_port() {
  for (std::size_t i = 0; i <= kMaxConnections; ++i) {
    const std::uint32_t port = next_port_;
    next_port_ = port == UINT32_MAX - 1 ? kFirstPort : port + 1;
    const auto found = streams_.lower_bound({.host = port, .guest = 0});
    if (found == streams_.end() || found->first.host != port) return port;
  }
  return std::nullopt;
}

// ---- streams ----

VsockMuxer::Stream& VsockMuxer::open(const VsockPorts& ports, UniqueFd socket, bool from_guest) {
  ++counters_.opened;
  ++counters_.connections;
  return streams_
      .try_emplace(ports, ports, std::move(socket), from_guest, [this](VsockPorts p) { on_stream(p); })
      .first->second;
}

void VsockMuxer::on_stream(VsockPorts ports) {
  const auto stream = streams_.find(ports);
  if (stream == streams_.end()) return;
  update(stream);
  if (wants_to_send()) want_send_();
}

// Lists the stream where it belongs after anything has happened to it; forgets it when it is over.
void VsockMuxer::update(Streams::iterator stream) {
  auto& [ports, state] = *stream;
  if (state.connection.over()) {
    drop(stream);
    if (accepting_) accept();
    return;
  }
  if (running_) state.connection.wait(loop_);
  if (state.connection.wants_to_send()) {
    if (!state.ready) ready_.push_back(ports);
    state.ready = true;
  }
}

// Not even its name stays: a guest that opens and resets streams without ever taking a packet would fill us.
VsockMuxer::Streams::iterator VsockMuxer::drop(Streams::iterator stream) {
  if (stream->second.ready) std::erase(ready_, stream->first);
  --counters_.connections;
  return streams_.erase(stream);
}

bool VsockMuxer::receive(const Chain& chain) {
  if (!can_receive()) return false;
  std::array<std::byte, VsockHeader::kSize> bytes{};
  if (!chain.copy_out(0, bytes)) {
    ++counters_.dropped;
    return true;
  }
  const VsockHeader packet = VsockHeader::parse(bytes);
  if (packet.src_cid != guest_cid_ || packet.length > chain.readable_size() - VsockHeader::kSize) {
    ++counters_.dropped;
    return true;
  }
  if (packet.dst_cid != kVsockHostCid || packet.type != kVsockStream) {
    refuse(packet);
    return true;
  }
  const VsockPorts ports{.host = packet.dst_port, .guest = packet.src_port};
  const auto stream = streams_.find(ports);
  if (stream != streams_.end()) {
    if (packet.op == VsockOp::ReadWrite) counters_.tx_bytes += packet.length;
    stream->second.connection.update_credit(packet);
    stream->second.connection.receive(packet, chain);
    update(stream);
  } else if (packet.op == VsockOp::Request) {
    connect_host(ports, packet);
  } else {
    refuse(packet);
  }
  return true;
}

void VsockMuxer::connect_host(const VsockPorts& ports, const VsockHeader& request) {
  if (has_room()) {
    auto socket = connect_unix(host_.path + "_" + std::to_string(ports.host));
    if (socket) {
      open(ports, std::move(*socket), true).connection.update_credit(request);
      update(streams_.find(ports));
      return;
    }
  }
  ++counters_.refused;
  refuse(request);
}

void VsockMuxer::refuse(const VsockHeader& packet) {
  ++counters_.strays;
  if (packet.op == VsockOp::Reset) return;
  strays_.push_back({.src_cid = packet.dst_cid,
                     .dst_cid = packet.src_cid,
                     .src_port = packet.dst_port,
                     .dst_port = packet.src_port,
                     .length = 0,
                     .type = packet.type,
                     .op = VsockOp::Reset,
                     .flags = 0,
                     .buf_alloc = 0,
                     .fwd_cnt = 0});
}

std::optional<std::uint32_t> VsockMuxer::fill(const Chain& chain) {
  // A header and at least a byte: with less the guest could not be sent data at all.
  if (chain.writable_size() <= VsockHeader::kSize) {
    if (!wants_to_send()) return std::nullopt;
    ++counters_.dropped;
    return 0;
  }
  if (!strays_.empty()) {
    static_cast<void>(chain.copy_in(0, strays_.front().bytes()));
    strays_.pop_front();
    return VsockHeader::kSize;
  }
  while (!ready_.empty()) {
    const VsockPorts ports = ready_.front();
    ready_.pop_front();
    const auto stream = streams_.find(ports);  // drop() leaves no names of others
    stream->second.ready = false;
    const auto written = stream->second.connection.fill(chain, guest_cid_);
    update(stream);
    if (!written) continue;
    counters_.rx_bytes += *written - static_cast<std::int64_t>(VsockHeader::kSize);
    return written;
  }
  return std::nullopt;
}

}  // namespace vmmd::devices
