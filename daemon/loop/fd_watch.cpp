#include <fcntl.h>
#include <sys/stat.h>

#include <atomic>
#include <cerrno>
#include <memory>
#include <utility>

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/system/system_error.hpp>

#include "base/unique_fd.h"
#include "daemon/loop/device_loop.h"

namespace vmmd::loop {

namespace asio = boost::asio;

namespace {

/// What the handlers hold on to: they may run after their watch is gone, and destroy it themselves.
struct Waiting {
  Waiting(asio::io_context& context, std::atomic<unsigned>& w, unsigned o, devices::FdEvent e,
          std::function<void()> r)
      : descriptor(context), works_for(w), owner(o), event(e), ready(std::move(r)) {}
  ~Waiting() {
    if (descriptor.is_open()) descriptor.release();  // it is not ours to close
  }

  // Asio waits for edges, and each new wait looks at the level first: so this is level-triggered.
  static void wait(const std::shared_ptr<Waiting>& self) {
    using Descriptor = asio::posix::stream_descriptor;
    const auto what =
        self->event == devices::FdEvent::Readable ? Descriptor::wait_read : Descriptor::wait_write;
    self->descriptor.async_wait(what, [self](const boost::system::error_code& error) {
      if (error || !self->watched) return;
      self->works_for.store(self->owner, std::memory_order_relaxed);
      self->ready();
      self->works_for.store(DeviceLoop::kNobody, std::memory_order_relaxed);
      if (self->watched) wait(self);
    });
  }

  UniqueFd duplicate;  // before the descriptor: closed after it has let go
  asio::posix::stream_descriptor descriptor;
  std::atomic<unsigned>& works_for;  // the loop's: handlers run only while there is one
  unsigned owner;
  devices::FdEvent event;
  std::function<void()> ready;
  bool watched = true;
};

class LoopWatch final : public devices::FdWatch {
 public:
  explicit LoopWatch(std::shared_ptr<Waiting> waiting) : waiting_(std::move(waiting)) {}
  ~LoopWatch() override {
    waiting_->watched = false;
    waiting_->descriptor.release();  // its handler comes with operation_aborted
  }
  LoopWatch(const LoopWatch&) = delete;
  LoopWatch& operator=(const LoopWatch&) = delete;

 private:
  std::shared_ptr<Waiting> waiting_;
};

}  // namespace

Result<std::unique_ptr<devices::FdWatch>> DeviceLoop::watch(int fd, devices::FdEvent event,
                                                            std::function<void()> ready) {
  return watch_for(kNobody, fd, event, std::move(ready));
}

Result<std::unique_ptr<devices::FdWatch>> DeviceLoop::watch_for(unsigned owner, int fd,
                                                                devices::FdEvent event,
                                                                std::function<void()> ready) {
  // epoll does not take files and Asio hides that: such a watch would never call.
  struct stat info = {};
  if (::fstat(fd, &info) != 0)
    return fail_errno(ErrorCode::Internal, errno, "cannot watch descriptor {}", fd);
  if (S_ISREG(info.st_mode) || S_ISBLK(info.st_mode) || S_ISDIR(info.st_mode)) {
    return fail(ErrorCode::Internal, "descriptor {} is a file or directory, which is always ready", fd);
  }
  try {
    auto waiting = std::make_shared<Waiting>(asio_context(), works_for_, owner, event, std::move(ready));
    boost::system::error_code error;
    static_cast<void>(waiting->descriptor.assign(fd, error));
    if (error.value() == EEXIST) {  // epoll knows a descriptor once: the other direction needs a duplicate
      waiting->duplicate.reset(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
      if (!waiting->duplicate)
        return fail_errno(ErrorCode::Internal, errno, "cannot watch descriptor {}", fd);
      static_cast<void>(waiting->descriptor.assign(waiting->duplicate.get(), error));
    }
    if (error) return fail_errno(ErrorCode::Internal, error.value(), "cannot watch descriptor {}", fd);
    Waiting::wait(waiting);
    return std::make_unique<LoopWatch>(std::move(waiting));
  } catch (const boost::system::system_error& error) {
    return fail_errno(ErrorCode::Internal, error.code().value(), "cannot watch descriptor {}", fd);
  }
}

}  // namespace vmmd::loop
