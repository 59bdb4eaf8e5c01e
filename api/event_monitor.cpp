#include "api/event_monitor.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <charconv>
#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "base/file.h"

namespace vmmd::api {

namespace {

/// Lines that wait for a slow disk; beyond it they are lost.
constexpr std::size_t kQueue = 1024;

Result<UniqueFd> open_sink(std::string_view spec) {
  constexpr std::string_view kFd = "fd=";
  constexpr std::string_view kPath = "path=";
  if (spec.starts_with(kFd)) {
    spec.remove_prefix(kFd.size());
    int number = -1;
    const auto [end, error] = std::from_chars(spec.data(), spec.data() + spec.size(), number);
    if (error != std::errc() || end != spec.data() + spec.size() || number < 0) {
      return fail(ErrorCode::BadRequest, "--event-monitor fd= takes the number of a descriptor, not \"{}\"",
                  spec);
    }
    const int flags = ::fcntl(number, F_GETFL);
    if (flags < 0) return fail_errno(ErrorCode::BadRequest, errno, "--event-monitor fd={}", number);
    if ((flags & O_ACCMODE) == O_RDONLY) {
      return fail(ErrorCode::BadRequest, "--event-monitor fd={} is open for reading only", number);
    }
    if (::fcntl(number, F_SETFL, flags | O_NONBLOCK) != 0 || ::fcntl(number, F_SETFD, FD_CLOEXEC) != 0) {
      return fail_errno(ErrorCode::Internal, errno, "--event-monitor fd={}", number);
    }
    return UniqueFd(number);
  }
  if (spec.starts_with(kPath)) spec.remove_prefix(kPath.size());
  if (spec.empty()) return fail(ErrorCode::BadRequest, "--event-monitor needs a path or fd=N");
  const std::string path(spec);
  auto fd = open_file(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_NONBLOCK, 0600);
  if (!fd) return wrap(std::move(fd).error(), "--event-monitor {} (a FIFO needs its reader first)", path);
  return fd;
}

}  // namespace

/// A queue and a thread of its own, since even a "non-blocking" file waits for its disk.
class EventMonitor::Sink {
 public:
  explicit Sink(UniqueFd fd) : fd_(std::move(fd)) {}
  Sink(const Sink&) = delete;
  Sink& operator=(const Sink&) = delete;
  ~Sink() { finish(); }

  void finish() {
    {
      const std::scoped_lock lock(mutex_);
      closing_ = true;
    }
    ready_.notify_one();
    if (writer_.joinable()) writer_.join();
  }

  Status start() {
    // The thread takes no signal: neither the daemon's own nor SIGPIPE for a reader that went away.
    sigset_t all;
    sigset_t before;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    Status started;
    try {
      writer_ = std::thread([this] { run(); });
    } catch (const std::system_error& error) {
      started = fail(ErrorCode::Internal, "cannot start the event monitor's thread: {}", error.what());
    }
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return started;
  }

  void push(EventLine line) {
    {
      const std::scoped_lock lock(mutex_);
      if (queue_.size() >= kQueue) {
        ++lost_;
        return;
      }
      queue_.push_back(std::move(line));
    }
    ready_.notify_one();
  }

  [[nodiscard]] std::uint64_t lost() const { return lost_.load(); }

 private:
  void run();
  void write_line(const std::string& line);
  [[nodiscard]] bool write_rest();

  const UniqueFd fd_;
  std::mutex mutex_;
  std::condition_variable ready_;
  std::vector<EventLine> queue_;  // under mutex_
  bool closing_ = false;          // under mutex_
  std::atomic<std::uint64_t> lost_ = 0;
  std::string rest_;  // of a line that went out in part; the writer's own
  std::thread writer_;
};

void EventMonitor::Sink::run() {
  std::vector<EventLine> batch;
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      ready_.wait(lock, [this] { return closing_ || !queue_.empty(); });
      if (queue_.empty()) return;  // closing, and all is written
      batch.swap(queue_);
    }
    for (const EventLine& line : batch) write_line(*line.json);
    batch.clear();
  }
}

/// A pipe may take half a line. The rest goes first the next time, so that lines never mix.
void EventMonitor::Sink::write_line(const std::string& line) {
  if (!write_rest()) {
    ++lost_;
    return;
  }
  rest_ = line + '\n';
  const std::size_t whole = rest_.size();
  if (!write_rest() && rest_.size() == whole) {
    rest_.clear();
    ++lost_;
  }
}

bool EventMonitor::Sink::write_rest() {
  while (!rest_.empty()) {
    const ssize_t size = ::write(fd_.get(), rest_.data(), rest_.size());
    if (size < 0 && errno == EINTR) continue;
    if (size <= 0) return false;
    rest_.erase(0, static_cast<std::size_t>(size));
  }
  return true;
}

EventMonitor::EventMonitor() = default;
EventMonitor::~EventMonitor() = default;

std::uint64_t EventMonitor::finish() {
  subscription_.reset();
  sink_->finish();
  return sink_->lost();
}

Result<std::unique_ptr<EventMonitor>> EventMonitor::open(std::string_view spec, EventBus& bus) {
  VMMD_ASSIGN(UniqueFd fd, open_sink(spec));
  std::unique_ptr<EventMonitor> monitor(new EventMonitor);
  monitor->sink_ = std::make_unique<Sink>(std::move(fd));
  VMMD_TRY(monitor->sink_->start());
  monitor->subscription_ =
      bus.subscribe([sink = monitor->sink_.get()](const std::shared_ptr<const std::string>& line,
                                                  std::uint64_t sequence) { sink->push({sequence, line}); });
  return monitor;
}

}  // namespace vmmd::api
