#include "remote/jobs.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <cerrno>
#include <future>
#include <mutex>
#include <thread>

#include <nlohmann/json.hpp>

#include "api/messages.h"
#include "remote/events.h"
#include "remote/interrupt.h"
#include "remote/progress.h"
#include "remote/requests.h"
#include "remote/session.h"
#include "remote/vm_state.h"

namespace vmmd::remote {

namespace {

constexpr long kRedrawNs = 200'000'000;  // 5 Hz
constexpr int kInterrupted = 130;        // as a shell reports SIGINT

/// What tells our job from others' in the stream of events.
struct JobMark {
  std::string event;     // that it starts with: "snapshotting"
  std::string property;  // of that event: "destination"
  std::string value;     // as we sent it
};

/// While a request is under way at a terminal: learns which job it is, shows how far it is, and lets Ctrl-C
/// cancel it. Two threads, one for the events and one for signals and time; both end with this object.
class JobWatch {
 public:
  JobWatch(const Session& session, JobMark mark)
      : client_(session.client()), mark_(std::move(mark)), bar_(mark_.event, session.shows_progress()) {}
  JobWatch(const JobWatch&) = delete;
  JobWatch& operator=(const JobWatch&) = delete;
  ~JobWatch() {
    const std::uint64_t one = 1;
    if (done_) static_cast<void>(::write(done_.get(), &one, sizeof one));
    if (events_.joinable()) events_.join();
    if (keeper_.joinable()) keeper_.join();
  }

  /// Returns when no event can be missed any more.
  Status start() {
    VMMD_ASSIGN(Interrupts interrupts, Interrupts::take({SIGINT, SIGTERM}));
    interrupts_.emplace(std::move(interrupts));
    done_ = UniqueFd(::eventfd(0, EFD_CLOEXEC));
    timer_ = UniqueFd(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
    const itimerspec rhythm = {{0, kRedrawNs}, {0, kRedrawNs}};
    if (!done_ || !timer_ || ::timerfd_settime(timer_.get(), 0, &rhythm, nullptr) != 0) {
      return fail_errno(ErrorCode::Internal, errno, "cannot watch the job");
    }
    std::promise<void> open;
    auto opened = open.get_future();
    events_ = std::thread([this, &open] { follow_events(open); });
    opened.wait();
    keeper_ = std::thread([this] { keep_watch(); });
    return {};
  }

 private:
  void follow_events(std::promise<void>& open) {
    bool said = false;
    api::EventOptions options;
    options.stop_fd = done_.get();
    options.on_open = [&] {
      said = true;
      open.set_value();
      return true;
    };
    // Without events (another server) the request works all the same.
    static_cast<void>(client_.events(
        [this](std::string_view line) {
          if (const auto event = parse_event(line)) on_event(*event);
          return true;
        },
        options));
    if (!said) open.set_value();
  }

  void on_event(const SeenEvent& event) {
    const auto property = [&event](const std::string& name) {
      const auto found = event.properties.find(name);
      return found == event.properties.end() ? std::string() : found->second;
    };
    const std::string job = property("job");
    std::unique_lock lock(mutex_);
    if (event.event == mark_.event && property(mark_.property) == mark_.value && job_.empty()) {
      job_ = job;
      if (!cancel_wanted_) return;
      lock.unlock();
      cancel(job);
    } else if (!job.empty() && job == job_) {
      const auto done = parse_count(property("bytes_done"));
      const auto total = parse_count(property("bytes_total"));
      if (done && total) bar_.update(*done, *total, property("phase"));
    }
  }

  void keep_watch() {
    for (;;) {
      pollfd entries[] = {
          {done_.get(), POLLIN, 0}, {interrupts_->fd(), POLLIN, 0}, {timer_.get(), POLLIN, 0}};
      if (::poll(entries, std::size(entries), -1) < 0 && errno != EINTR) return;
      if (entries[0].revents != 0) return;
      if (entries[1].revents != 0 && interrupts_->next() != 0) on_interrupt();
      if (entries[2].revents != 0) redraw();
    }
  }

  void on_interrupt() {
    std::unique_lock lock(mutex_);
    // Asked twice: leave now. A snapshot is cancelled by our hanging up.
    if (cancel_wanted_) ::_exit(kInterrupted);
    cancel_wanted_ = true;
    bar_.note("cancelling; Ctrl-C again leaves at once");
    const std::string job = job_;
    lock.unlock();
    if (!job.empty()) cancel(job);
  }

  /// The request's own answer says how it went.
  void cancel(const std::string& job) {
    static_cast<void>(client_.request(api::Verb::Put, "vm.cancel", api::cancel_request_json(job)));
  }

  void redraw() {
    std::uint64_t ticks = 0;
    static_cast<void>(::read(timer_.get(), &ticks, sizeof ticks));
    // During a restore there is no VM yet, and nothing to ask.
    const auto answer = client_.request(api::Verb::Get, "vm.info");
    if (!answer) return;
    const VmSummary summary = parse_vm_info(answer->body);
    const std::scoped_lock lock(mutex_);
    for (const api::JobStatus& job : summary.jobs) {
      if (job.id == job_) bar_.update(job.bytes_done, job.bytes_total, job.phase);
    }
  }

  const api::Client client_;
  const JobMark mark_;
  std::optional<Interrupts> interrupts_;
  UniqueFd done_;   // readable: end
  UniqueFd timer_;  // when to draw again
  std::mutex mutex_;
  ProgressBar bar_;             // guarded by mutex_
  std::string job_;             // guarded by mutex_; empty: not known yet
  bool cancel_wanted_ = false;  // guarded by mutex_
  std::thread events_;
  std::thread keeper_;
};

/// Sends the command's request; at a terminal with a watch over its job.
Result<api::Response> run_job(const Session& session, const Command& command, const RequestBody& body,
                              JobMark mark) {
  std::optional<JobWatch> watch;
  if (::isatty(STDERR_FILENO) != 0) {
    watch.emplace(session, std::move(mark));
    VMMD_TRY(watch->start());
  }
  return session.client().request(command.verb, command.endpoint, body.json, body.fds);
}

/// As the request says it, which is how events will name the job's place.
std::string field_of(const RequestBody& body, const char* name) {
  return nlohmann::json::parse(body.json).at(name).get<std::string>();
}

}  // namespace

Status run_snapshot(Session& session, const Command& command, const Arguments& arguments) {
  VMMD_ASSIGN(const RequestBody body, command.body(arguments));
  const std::string destination = field_of(body, "destination_url");
  VMMD_ASSIGN(const api::Response response,
              run_job(session, command, body, {"snapshotting", "destination", destination}));
  session.set_result(response.body);
  // Only who uses an option of ours wants to know; ch-remote's form is as quiet as there.
  const bool ours = arguments.has("--mode") || arguments.has("--pause") || arguments.has("--resume") ||
                    arguments.has("--label");
  if (ours) session.print(response.body);
  return {};
}

Status run_restore(Session& session, const Command& command, const Arguments& arguments) {
  VMMD_ASSIGN(const RequestBody body, command.body(arguments));
  VMMD_ASSIGN(const api::Response response,
              run_job(session, command, body, {"restoring", "source", field_of(body, "source_url")}));
  session.answer(response.body);
  return {};
}

}  // namespace vmmd::remote
