#pragma once

// What the server's tests share: a Service that answers when told to, a server on a thread of its own, and a
// client that is nothing but a socket.

#include <condition_variable>
#include <filesystem>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "api/endpoints.h"
#include "api/events.h"
#include "api/server.h"
#include "api/service.h"
#include "api/socket.h"
#include "base/unique_fd.h"

namespace vmmd::api::testing {

/// Records what it is asked. Commands are answered at once, or, with hold(), when the test says so.
class FakeService final : public Service {
 public:
  Result<std::shared_ptr<const VmInfo>> info() const override;
  Result<Counters> counters() const override;
  void create(VmConfig config, PassedFds fds, Done<void> done) override;
  void command(Command command, Done<void> done) override;
  std::string snapshot(SnapshotRequest request, Done<SnapshotResult> done) override;
  void resize(ResizeRequest request, Done<void> done) override;
  void resize_disk(ResizeDiskRequest request, Done<void> done) override;
  void restore(RestoreRequest request, PassedFds fds, Done<void> done) override;
  void cancel(std::string job_id, Done<void> done) override;

  void set_info(VmInfo info);
  void hold();                  // from now on nothing is answered by itself
  std::string wait_for_call();  // the next call not yet waited for: "vm.pause", "snapshot file:///x", ...
  void answer(std::optional<Error> error = {});  // the oldest held call, on the calling thread
  void drop();                                   // forgets the oldest held callback unanswered
  [[nodiscard]] std::size_t calls() const;

 private:
  using Finish = std::function<void(std::optional<Error>)>;
  void called(std::string what, Finish finish);

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> calls_;
  std::size_t waited_ = 0;
  std::vector<Finish> held_;
  bool hold_ = false;
  std::shared_ptr<const VmInfo> info_;
};

/// A directory that goes away with everything in it.
class TempDir {
 public:
  TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  ~TempDir();
  [[nodiscard]] std::string operator/(std::string_view name) const;

 private:
  std::filesystem::path path_;
};

struct RawResponse {
  unsigned status = 0;
  std::string version;                         // "HTTP/1.1"
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;
};

/// A connected socket. Every wait ends after ten seconds, with an exception, so that a server that does not
/// answer fails the test instead of hanging it.
class RawClient {
 public:
  explicit RawClient(const std::string& path);
  void send(std::string_view bytes);
  /// False when the other side has closed.
  bool try_send(std::string_view bytes);
  void shutdown_write();
  [[nodiscard]] RawResponse response();
  [[nodiscard]] std::string line();  // up to "\n", without "\r\n"
  [[nodiscard]] std::string rest();  // up to the end of the stream
  [[nodiscard]] bool at_end();       // the next thing is the end of the stream
  [[nodiscard]] std::string take(std::size_t size);
  void close() { fd_.reset(); }
  [[nodiscard]] int fd() const { return fd_.get(); }

 private:
  bool fill();
  UniqueFd fd_;
  std::string buffer_;
};

[[nodiscard]] std::string get(std::string_view endpoint);
[[nodiscard]] std::string put(std::string_view endpoint, std::string_view body = {});

class ServerFixture {
 public:
  explicit ServerFixture(const ServerLimits& limits = {});
  ServerFixture(const ServerFixture&) = delete;
  ServerFixture& operator=(const ServerFixture&) = delete;
  ~ServerFixture();

  [[nodiscard]] RawClient connect() const { return RawClient(path); }
  void stop_and_join();

  TempDir dir;
  std::string path;
  EventBus events;
  FakeService service;
  std::unique_ptr<ApiServer> server;

 private:
  ApiSocket socket_;
  std::thread thread_;
};

}  // namespace vmmd::api::testing
