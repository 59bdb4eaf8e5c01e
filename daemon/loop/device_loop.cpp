#include "daemon/loop/device_loop.h"

#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <future>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/system/system_error.hpp>

#include "base/inherited_name.h"
#include "base/short_slice.h"
#include "base/signals.h"
#include "base/thread_affinity.h"

namespace vmmd::loop {

namespace asio = boost::asio;

struct DeviceLoop::Impl {
  // 1: only one thread runs the context, others just post to it.
  asio::io_context context{1};
  std::optional<asio::executor_work_guard<asio::io_context::executor_type>> work;
  std::thread thread;
  std::atomic<std::thread::id> thread_id = std::thread::id();
};

DeviceLoop::DeviceLoop() : impl_(std::make_unique<Impl>()) {}

DeviceLoop::~DeviceLoop() {
  stop();
}

Status DeviceLoop::start(const Options& options) {
  if (impl_->work) return fail(ErrorCode::Internal, "the device thread was started before");
  try {
    // The context makes its epoll, event and timer descriptors with its first I/O object, and throws where
    // there are none left. Make them here, where that can be said.
    const asio::steady_timer first(impl_->context);
  } catch (const boost::system::system_error& error) {
    return fail_errno(ErrorCode::Internal, error.code().value(),
                      "cannot make the device thread's descriptors");
  }
  impl_->work.emplace(impl_->context.get_executor());

  // A thread inherits its mask: block all that is not its own doing, so that no such signal reaches it ever.
  const sigset_t all = all_but_faults();
  sigset_t before = {};
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  Status status;
  try {
    const InheritedName name(options.name);
    impl_->thread = std::thread([impl = impl_.get()] {
      impl->thread_id = std::this_thread::get_id();
      ask_for_short_slices();
      impl->context.run();
      impl->thread_id = std::thread::id();
    });
  } catch (const std::system_error& error) {
    status = fail_errno(ErrorCode::Internal, error.code().value(), "cannot start the device thread");
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (!status) return status;
  return bind_thread(impl_->thread.native_handle(), options.cpus, "a device's thread");
}

void DeviceLoop::stop() {
  if (!impl_->thread.joinable()) return;
  impl_->context.stop();
  impl_->thread.join();
}

void DeviceLoop::post(std::function<void()> work) {
  asio::post(impl_->context, std::move(work));
}

void DeviceLoop::post_for(unsigned owner, std::function<void()> work) {
  asio::post(impl_->context, [this, owner, work = std::move(work)] {
    works_for_.store(owner, std::memory_order_relaxed);
    work();
    works_for_.store(kNobody, std::memory_order_relaxed);
  });
}

void DeviceLoop::run_sync(const std::function<void()>& work) {
  if (on_loop_thread() || !running()) {
    work();
    return;
  }
  std::promise<void> done;
  post([&] {
    work();
    done.set_value();
  });
  done.get_future().wait();
}

bool DeviceLoop::running() const {
  return impl_->thread.joinable();
}

bool DeviceLoop::on_loop_thread() const {
  return impl_->thread_id.load() == std::this_thread::get_id();
}

asio::io_context& DeviceLoop::asio_context() {
  return impl_->context;
}

}  // namespace vmmd::loop
