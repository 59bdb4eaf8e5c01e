#include "daemon/memory/ram_guard.h"

#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <mutex>
#include <utility>

namespace vmmd::memory {

namespace {

// What the handler may look at: it can run on any thread at any instruction that touches memory, so this is
// all there is, and lock-free. A range is valid while `end` is not 0; `end` is written last and cleared
// first.
struct Range {
  std::atomic<std::uintptr_t> start = 0;
  std::atomic<std::uintptr_t> end = 0;
  std::atomic<std::size_t> page_size = 0;
  std::atomic<int> event = -1;
  std::atomic<std::uintptr_t> first_lost = 0;
  std::atomic<const RamGuard*> owner = nullptr;
};
static_assert(std::atomic<std::uintptr_t>::is_always_lock_free);

constexpr std::size_t kRanges = 128;  // two of RAM, one for each persistent memory
// NOLINTBEGIN(cppcoreguidelines-avoid-non-const-global-variables): a signal's handler is the process's.
std::array<Range, kRanges> ranges;
std::mutex ranges_mutex;  // of those who take and release ranges, and of installing the handler
struct sigaction previous;
// NOLINTEND(cppcoreguidelines-avoid-non-const-global-variables)

// A private page of zeros where there was none to be had.
bool put_zeros(std::uintptr_t address, std::size_t page_size) {
  // NOLINTNEXTLINE(performance-no-int-to-ptr): the kernel gives addresses
  auto* const page = reinterpret_cast<void*>(address & ~(page_size - 1));
  return ::mmap(page, page_size, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) == page;
}

void on_bus_error(int signal, siginfo_t* info, void* /*context*/) {
  const int saved_errno = errno;
  const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
  if (info->si_code > 0) {  // the kernel's, not a kill(2)
    for (Range& range : ranges) {
      const std::uintptr_t end = range.end;
      if (end == 0 || address < range.start || address >= end) continue;
      if (!put_zeros(address, range.page_size)) break;
      std::uintptr_t none = 0;
      range.first_lost.compare_exchange_strong(none, address);
      const std::uint64_t one = 1;
      static_cast<void>(!::write(range.event, &one, sizeof one));
      errno = saved_errno;
      return;
    }
  }
  // Not ours, or beyond help: what would have happened without us. The instruction faults once more.
  ::sigaction(SIGBUS, &previous, nullptr);
  if (info->si_code <= 0) ::raise(signal);
  errno = saved_errno;
}

// Once in a process; but one that failed is tried again with the next VM.
Status install_handler() {
  const std::lock_guard lock(ranges_mutex);
  static bool installed = false;
  if (installed) return {};
  struct sigaction action = {};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO;
  if (::sigaction(SIGBUS, &action, &previous) != 0)
    return fail_errno(ErrorCode::Internal, errno, "cannot handle SIGBUS");
  installed = true;
  return {};
}

}  // namespace

Result<std::unique_ptr<RamGuard>> RamGuard::create() {
  VMMD_TRY(install_handler());
  UniqueFd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event) return fail_errno(ErrorCode::Internal, errno, "cannot make an event for lost memory");
  return std::unique_ptr<RamGuard>(new RamGuard(std::move(event)));
}

Status RamGuard::cover(std::byte* start, std::size_t size, std::size_t page_size) {
  const std::lock_guard lock(ranges_mutex);
  for (Range& range : ranges) {
    if (range.end != 0) continue;
    range.start = reinterpret_cast<std::uintptr_t>(start);
    range.page_size = page_size;
    range.event = event_.get();
    range.first_lost = 0;
    range.owner = this;
    range.end = reinterpret_cast<std::uintptr_t>(start) + size;
    return {};
  }
  return fail(ErrorCode::TooMany, "more than {} ranges of guest memory", kRanges);
}

RamGuard::~RamGuard() {
  const std::lock_guard lock(ranges_mutex);
  for (Range& range : ranges) {
    if (range.owner != this) continue;
    range.end = 0;
    range.owner = nullptr;
  }
}

std::optional<std::uintptr_t> RamGuard::first_lost() const {
  for (const Range& range : ranges) {
    if (range.owner == this && range.first_lost != 0) return range.first_lost;
  }
  return std::nullopt;
}

}  // namespace vmmd::memory
