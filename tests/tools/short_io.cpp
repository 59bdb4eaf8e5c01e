// short-io PID MOST: until SIGTERM, every pread and pwrite by PID's threads transfers at most MOST bytes, and
// every fifth is interrupted first (EINTR). A kernel may do both at any time; strace cannot shorten, it can
// only lie. Descriptors of /proc and /sys are left alone: they have rules of their own. Says "attached", and
// at the end how many were shortened and interrupted.
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>

namespace {

enum class Next { Entry, Exit, ExitInterrupted };

std::map<pid_t, Next> threads;
unsigned long long most = 0;
unsigned calls = 0;
unsigned shortened = 0;
unsigned interrupted = 0;
volatile sig_atomic_t stopping = 0;

bool is_on_disk(pid_t tid, unsigned long long fd) {
  const std::string path = "/proc/" + std::to_string(tid) + "/fd/" + std::to_string(fd);
  std::array<char, 4096> target = {};
  const ssize_t length = ::readlink(path.c_str(), target.data(), target.size());
  if (length <= 0) return false;
  const std::string_view name(target.data(), static_cast<std::size_t>(length));
  return name.starts_with('/') && !name.starts_with("/proc/") && !name.starts_with("/sys/");
}

Next enter(pid_t tid) {
  user_regs_struct regs = {};
  if (::ptrace(PTRACE_GETREGS, tid, nullptr, &regs) != 0) return Next::Exit;
  if (regs.orig_rax != SYS_pread64 && regs.orig_rax != SYS_pwrite64) return Next::Exit;
  if (regs.rdx < 2 || !is_on_disk(tid, regs.rdi)) return Next::Exit;
  Next next = Next::Exit;
  if (++calls % 5 == 0) {
    regs.orig_rax = ~0ULL;  // no such call: nothing happens
    next = Next::ExitInterrupted;
    ++interrupted;
  } else if (regs.rdx > most) {
    regs.rdx = most;
    ++shortened;
  }
  ::ptrace(PTRACE_SETREGS, tid, nullptr, &regs);
  return next;
}

void leave(pid_t tid) {
  user_regs_struct regs = {};
  if (::ptrace(PTRACE_GETREGS, tid, nullptr, &regs) != 0) return;
  regs.rax = static_cast<unsigned long long>(-EINTR);
  ::ptrace(PTRACE_SETREGS, tid, nullptr, &regs);
}

void on_stop(pid_t tid, int status) {
  const int stop = WSTOPSIG(status);
  int deliver = 0;
  if (stop == (SIGTRAP | 0x80)) {
    Next& next = threads[tid];
    if (next == Next::Entry) {
      next = enter(tid);
    } else {
      if (next == Next::ExitInterrupted) leave(tid);
      next = Next::Entry;
    }
  } else if (status >> 16 == 0) {
    deliver = stop;  // a signal of its own
  } else {
    threads.try_emplace(tid, Next::Entry);  // a new thread, or one that was just attached
  }
  ::ptrace(PTRACE_SYSCALL, tid, nullptr, deliver);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  most = std::strtoull(argv[2], nullptr, 10);
  const std::string tasks = "/proc/" + std::string(argv[1]) + "/task";
  struct sigaction action = {};
  action.sa_handler = [](int) { stopping = 1; };
  ::sigaction(SIGTERM, &action, nullptr);
  for (const auto& task : std::filesystem::directory_iterator(tasks)) {
    const pid_t tid = std::atoi(task.path().filename().c_str());
    // The kernel's own threads (kvm-nx-lpage-re) cannot be traced.
    if (::ptrace(PTRACE_SEIZE, tid, nullptr, PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE) != 0) continue;
    threads[tid] = Next::Entry;
    ::ptrace(PTRACE_INTERRUPT, tid, nullptr, nullptr);
  }
  std::puts("attached");
  std::fflush(stdout);
  while (stopping == 0) {
    int status = 0;
    const pid_t tid = ::waitpid(-1, &status, __WALL);
    if (tid < 0 && errno == EINTR) continue;
    if (tid < 0) break;
    if (WIFSTOPPED(status))
      on_stop(tid, status);
    else
      threads.erase(tid);
  }
  std::printf("%u shortened, %u interrupted\n", shortened, interrupted);
  return 0;
}
