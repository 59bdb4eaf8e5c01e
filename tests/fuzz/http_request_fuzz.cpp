// Raw bytes through the whole server: socket, HTTP parser, dispatch, bodies, answers, event streams. Each
// input is one connection's life. The Service answers at once, so that nothing waits.

#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>
#include <thread>

#include "api/server.h"
#include "base/unique_fd.h"

namespace {

using namespace vmmd;
using namespace vmmd::api;

class AgreeingService final : public Service {
 public:
  AgreeingService() { info_->config.payload.kernel = "/k"; }
  [[nodiscard]] Result<std::shared_ptr<const VmInfo>> info() const override { return info_; }
  [[nodiscard]] Result<Counters> counters() const override { return Counters{{"d", {{"c", 1}}}}; }
  void create(VmConfig /*config*/, PassedFds /*fds*/, Done<void> done) override { done({}); }
  void command(Command command, Done<void> done) override {
    if (command == Command::Nmi) return done(fail(ErrorCode::WrongState, "no"));
    done({});
  }
  std::string snapshot(SnapshotRequest /*request*/, Done<SnapshotResult> done) override {
    done(SnapshotResult{"id", "copy", 4096});
    return "snapshot-1";
  }
  void resize(ResizeRequest /*request*/, Done<void> done) override { done({}); }
  void resize_disk(ResizeDiskRequest /*request*/, Done<void> done) override { done({}); }
  void restore(RestoreRequest /*request*/, PassedFds /*fds*/, Done<void> done) override { done({}); }
  void cancel(std::string /*job_id*/, Done<void> done) override { done({}); }

 private:
  std::shared_ptr<VmInfo> info_ = std::make_shared<VmInfo>();
};

/// Built once, on the first input; lives as long as the process.
class Harness {
 public:
  Harness() {
    // An abstract address (it starts with a zero byte) leaves no file behind.
    address_.sun_family = AF_UNIX;
    const int length =
        std::snprintf(address_.sun_path + 1, sizeof address_.sun_path - 1, "vmmd-fuzz-%d", ::getpid());
    size_ = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + static_cast<std::size_t>(length));
    UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (::bind(listener.get(), generic(), size_) != 0 || ::listen(listener.get(), 16) != 0) std::abort();
    ServerLimits limits;
    limits.header_bytes = 1024;
    limits.body_bytes = 2048;
    auto server = ApiServer::make(std::move(listener), service_, events_, {"v", "1", 1, {}}, limits);
    if (!server) std::abort();
    server_ = std::move(*server);
    events_.publish("vm", "booted", {{"k", "v"}});
    thread_ = std::thread([this] { server_->run(); });
  }
  Harness(const Harness&) = delete;
  Harness& operator=(const Harness&) = delete;
  ~Harness() {
    server_->stop();
    thread_.join();
  }

  void run(const std::uint8_t* data, std::size_t size) {
    const UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (::connect(fd.get(), generic(), size_) != 0) std::abort();
    // The first byte says how the rest is cut into writes, and how many descriptors go with each.
    const std::size_t step = data[0] == 0 ? size : data[0];
    for (std::size_t at = 1; at < size; at += step) {
      const std::size_t part = std::min(step, size - at);
      const auto bytes = std::as_bytes(std::span(data + at, part));
      if (send_with_fds(fd.get(), bytes, std::span(passed_).first(step % 3)) < 0) break;
    }
    ::shutdown(fd.get(), SHUT_WR);
    // A stream of events never ends by itself; whoever asked for one hangs up.
    char chunk[16 << 10];
    for (ssize_t got = 0; (got = ::recv(fd.get(), chunk, sizeof chunk, 0)) > 0;) {
      const std::string_view text(chunk, static_cast<std::size_t>(got));
      if (text.find("text/event-stream") != std::string_view::npos) break;
    }
  }

 private:
  [[nodiscard]] const sockaddr* generic() const { return reinterpret_cast<const sockaddr*>(&address_); }

  sockaddr_un address_ = {};
  socklen_t size_ = 0;
  std::array<UniqueFd, 2> passed_{UniqueFd(::eventfd(0, EFD_CLOEXEC)), UniqueFd(::eventfd(0, EFD_CLOEXEC))};
  AgreeingService service_;
  EventBus events_;
  std::unique_ptr<ApiServer> server_;
  std::thread thread_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  // More than the socket buffers would need a second thread, and finds nothing new.
  if (size < 2 || size > (32 << 10)) return 0;
  static Harness harness;
  harness.run(data, size);
  return 0;
}
