// vmmd: one process, one virtual machine, one HTTP API on a Unix socket. See docs/user-guide.md.

#include <malloc.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <utility>

#include "api/event_monitor.h"
#include "api/events.h"
#include "api/messages.h"
#include "api/net_fds.h"
#include "api/server.h"
#include "api/socket.h"
#include "base/short_slice.h"
#include "base/version.h"
#include "daemon/control/announce.h"
#include "daemon/control/left_behind.h"
#include "daemon/control/service.h"
#include "daemon/log.h"
#include "daemon/options.h"

namespace vmmd {

namespace {

constexpr int kExitSignal = SIGTERM;

api::PingResponse ping_response() {
  return {std::string(kBuild), std::string(kVersion), ::getpid(), {"kvm"}};
}

/// Stops the server for the VM thread, which may ask while the server is already going.
class ServerStopper {
 public:
  void set(api::ApiServer* server) {
    const std::lock_guard lock(mutex_);
    server_ = server;
  }
  void stop() {
    const std::lock_guard lock(mutex_);
    if (server_ != nullptr) server_->stop();
  }

 private:
  std::mutex mutex_;
  api::ApiServer* server_ = nullptr;
};

/// Runs the daemon without an API: until a signal, or until the guest powers off.
void wait_for_exit(const sigset_t& signals) {
  int signal = 0;
  sigwait(&signals, &signal);
}

/// The VM has duplicates, and is to be their only owner.
void close_inherited(const std::vector<api::NetFds>& places) {
  for (const api::NetFds& net : places) {
    for (const std::int32_t number : net.fds) ::close(number);
  }
}

/// --kernel, --restore: what the API could also be asked for, asked first. A failure ends the daemon.
void start_first_vm(DaemonOptions& options, control::DaemonService& service) {
  const auto give_up = [&service] {  // the service has logged why
    log_error("the VM of the command line cannot start: vmmd ends");
    service.exit(/*failed=*/true);
  };
  auto places = options.vm ? api::fd_places(*options.vm) : std::vector<api::NetFds>();
  if (options.restore) places = api::fd_places(*options.restore);
  auto fds = api::inherited_fds(places);
  if (!fds) {
    log_error("{}", fds.error().to_string());
    return give_up();
  }
  if (options.vm) {
    service.create(std::move(*options.vm), std::move(*fds),
                   [give_up, places, &service](const Status& created) {
                     if (!created) return give_up();
                     close_inherited(places);
                     service.command(api::Command::Boot, [give_up](const Status& booted) {
                       if (!booted) give_up();
                     });
                   });
  } else if (options.restore) {  // never both
    service.restore(std::move(*options.restore), std::move(*fds), [give_up, places](const Status& restored) {
      if (!restored) return give_up();
      close_inherited(places);
    });
  }
}

int fail_start(const Error& error) {
  log_error("{}", error.to_string());
  return 1;
}

/// Connections of guests, disks and queues take descriptors. The soft limit is there for select(), which we
/// never call.
void raise_descriptor_limit() {
  rlimit limit = {};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

int run(DaemonOptions options) {
  if (auto opened = open_log(options.verbosity, options.log_file); !opened) {
    static_cast<void>(open_log(0, ""));
    return fail_start(opened.error());
  }
  signal(SIGPIPE, SIG_IGN);
  umask(0077);  // all that we create is its owner's alone
  raise_descriptor_limit();

  api::EventBus events;
  std::unique_ptr<api::EventMonitor> monitor;
  if (!options.event_monitor.empty()) {
    auto opened = api::EventMonitor::open(options.event_monitor, events);
    if (!opened) return fail_start(opened.error());
    monitor = std::move(*opened);
  }
  std::atomic<bool> failed = false;

  if (options.api_socket.empty()) {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals, nullptr);
    const auto request_exit = [&failed](bool because_it_failed) {
      failed = because_it_failed;
      ::kill(::getpid(), kExitSignal);
    };
    // After a crash nobody could reach the daemon any more, or see why the guest is gone.
    control::DaemonService service(
        events, {.no_shutdown = options.no_shutdown, .exit_on_crash = true, .request_exit = request_exit});
    service.start(/*vm_follows=*/true);
    control::announce(events, "vmm", "starting");
    start_first_vm(options, service);
    wait_for_exit(signals);
    service.shut_down();
    return failed ? 1 : 0;
  }

  api::ApiSocket socket;  // goes last: who sees its name vanish finds the VM gone
  ServerStopper stopper;
  const auto request_exit = [&stopper, &failed](bool because_it_failed) {
    failed = because_it_failed;
    stopper.stop();
  };
  control::DaemonService service(
      events, {.no_shutdown = options.no_shutdown, .exit_on_crash = false, .request_exit = request_exit});
  // A VM of the command line does not wait: KVM is opened for it while the socket is made. Otherwise the
  // socket comes first, because the two hinder each other.
  const bool at_once = options.vm || options.restore;
  if (at_once) service.start(/*vm_follows=*/true);
  if (auto opened = api::open_api_socket(options.api_socket)) {
    socket = std::move(*opened);
  } else {
    return fail_start(opened.error());
  }
  auto server = api::ApiServer::make(socket.take_listener(), service, events, ping_response());
  if (!server) return fail_start(server.error());
  stopper.set(server->get());
  if (auto watched = (*server)->on_signals({SIGTERM, SIGINT}, [&service](int) { service.shut_down(); });
      !watched) {
    return fail_start(watched.error());
  }
  if (!at_once) service.start();
  control::announce(events, "vmm", "starting");
  start_first_vm(options, service);
  ask_for_short_slices();  // behind the start of all other threads, which would inherit them
  (*server)->run();
  stopper.set(nullptr);
  return failed ? 1 : 0;
}

}  // namespace
}  // namespace vmmd

int main(int argc, char** argv) {
  // One heap for all threads: none of them allocates often enough to wait for another, and a heap of its own
  // costs each thread 40 KiB and its start four system calls.
  mallopt(M_ARENA_MAX, 1);
  vmmd::ParsedOptions parsed = vmmd::parse_options(argc, argv);
  if (parsed.exit_status) return *parsed.exit_status;
  const int status = vmmd::run(std::move(parsed.options));
  if (vmmd::control::anything_left_behind()) std::_Exit(status);
  return status;
}
