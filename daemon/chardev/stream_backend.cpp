#include "daemon/chardev/stream_backend.h"

#include <unistd.h>

#include <cerrno>
#include <utility>

#include <boost/asio/io_context.hpp>

namespace vmmd::chardev {

namespace {
constexpr std::size_t kChunk = 16 << 10;
/// Chunks moved before others on the loop get their turn.
constexpr int kRounds = 16;
/// Read ahead of the receiver: little, since it is lost with this process.
constexpr std::size_t kReadAhead = 256;
}  // namespace

StreamBackend::StreamBackend(loop::DeviceLoop& loop, NoPeer no_peer, Input input)
    : loop_(loop), no_peer_(no_peer), input_(input) {}

StreamBackend::~StreamBackend() = default;

void StreamBackend::shut_down() {
  loop_.run_sync([this] {
    alive_.reset();
    receiver_ = nullptr;
    close_input();
    close_output();
  });
}

std::shared_ptr<StreamBackend::Descriptor> StreamBackend::make_descriptor(UniqueFd fd) {
  auto descriptor = std::make_shared<Descriptor>(loop_.asio_context());
  boost::system::error_code error;
  static_cast<void>(descriptor->assign(fd.get(), error));
  // Fails for want of memory only; reads and writes then fail with EBADF, and the hooks close this end.
  if (!error) static_cast<void>(fd.release());
  return descriptor;
}

// ---- output ----

void StreamBackend::write(std::span<const std::byte> data) {
  {
    const std::lock_guard lock(mutex_);
    if (peer_) {
      counters_.tx_dropped += data.size() - queue_.push(data);
    } else if (no_peer_ == NoPeer::Keep) {
      counters_.tx_dropped += queue_.push_newest(data, kKept);
    } else {
      counters_.tx_dropped += data.size();
    }
    if (!peer_ || flushing_ || queue_.empty()) return;
    flushing_ = true;
  }
  later([this] { flush(); });
}

void StreamBackend::open_output(std::shared_ptr<Descriptor> descriptor) {
  out_ = std::move(descriptor);
  ++out_session_;
  {
    const std::lock_guard lock(mutex_);
    peer_ = true;
    flushing_ = true;
  }
  flush();
}

void StreamBackend::close_output() {
  if (out_ == nullptr) return;
  ++out_session_;
  boost::system::error_code ignored;
  // A descriptor that input uses as well keeps its waits; the session number makes ours stale.
  if (out_ != in_) static_cast<void>(out_->cancel(ignored));
  out_ = nullptr;
  const std::lock_guard lock(mutex_);
  peer_ = false;
  flushing_ = false;
  counters_.tx_dropped += queue_.trim(no_peer_ == NoPeer::Keep ? kKept : 0);
  settled_.notify_all();
}

void StreamBackend::flush() {
  std::array<std::byte, kChunk> chunk;
  for (int round = 0; round < kRounds; ++round) {
    std::size_t count = 0;
    {
      const std::lock_guard lock(mutex_);
      if (out_ == nullptr) return;
      count = queue_.peek(chunk);
      if (count == 0) {
        flushing_ = false;
        settled_.notify_all();
        return;
      }
    }
    const ssize_t n = ::write(out_->native_handle(), chunk.data(), count);
    if (n > 0) {
      const std::lock_guard lock(mutex_);
      queue_.pop(static_cast<std::size_t>(n));
      counters_.tx_bytes += static_cast<std::uint64_t>(n);
      continue;
    }
    const int error = n < 0 ? errno : EIO;
    if (error == EINTR) continue;
    if (error == EAGAIN) {
      wait_for_output();
    } else {
      on_output_error(error);
    }
    return;
  }
  later([this] { flush(); });
}

void StreamBackend::wait_for_output() {
  out_->async_wait(Descriptor::wait_write, guarded([this, session = out_session_] {
                     if (session == out_session_) flush();
                   }));
}

void StreamBackend::discard_output() {
  const std::lock_guard lock(mutex_);
  counters_.tx_dropped += queue_.trim(0);
  flushing_ = false;
  settled_.notify_all();
}

void StreamBackend::drain(std::chrono::milliseconds limit) {
  {
    std::unique_lock lock(mutex_);
    if (!peer_ || queue_.empty()) return;
  }
  if (!loop_.running() || loop_.on_loop_thread()) {
    flush();
    return;
  }
  std::unique_lock lock(mutex_);
  settled_.wait_for(lock, limit, [this] { return queue_.empty() || !peer_; });
}

// ---- input ----

void StreamBackend::set_receiver(devices::CharReceiver* receiver) {
  if (input_ == Input::Never) return;
  const auto set = [this, receiver] {
    receiver_ = receiver;
    if (receiver != nullptr) later([this] { pump_input(); });
  };
  // Only a former receiver needs the wait: a restore, which just adds one, is not to wait for the loop.
  if (has_receiver_.exchange(receiver != nullptr) || !loop_.running()) {
    loop_.run_sync(set);
  } else {
    later(set);
  }
}

void StreamBackend::receiver_ready() {
  if (input_ == Input::Never || ready_posted_.exchange(true)) return;
  later([this] {
    ready_posted_ = false;
    pump_input();
  });
}

void StreamBackend::open_input(std::shared_ptr<Descriptor> descriptor) {
  in_ = std::move(descriptor);
  ++in_session_;
  in_waiting_ = false;
  pump_input();
}

void StreamBackend::close_input() {
  if (in_ == nullptr) return;
  ++in_session_;
  boost::system::error_code ignored;
  if (in_ != out_) static_cast<void>(in_->cancel(ignored));
  in_ = nullptr;
  in_waiting_ = false;
}

bool StreamBackend::deliver() {
  std::array<std::byte, kReadAhead> chunk;
  while (!pending_.empty()) {
    const std::size_t offered = pending_.peek(chunk);
    const std::size_t taken = receiver_->receive(std::span(chunk).first(offered));
    pending_.pop(taken);
    {
      const std::lock_guard lock(mutex_);
      counters_.rx_bytes += taken;
    }
    if (taken < offered) return false;
  }
  return true;
}

void StreamBackend::pump_input() {
  std::array<std::byte, kReadAhead> chunk;
  for (int round = 0; round < kRounds; ++round) {
    if (receiver_ == nullptr || !deliver()) return;
    if (in_ == nullptr || in_waiting_) return;
    const ssize_t n = ::read(in_->native_handle(), chunk.data(), chunk.size());
    if (n > 0) {
      pending_.push(std::span(chunk).first(static_cast<std::size_t>(n)));
      on_input();
      continue;
    }
    const int error = n < 0 ? errno : 0;
    if (error == EINTR) continue;
    if (error == EAGAIN) {
      wait_for_input();
    } else {
      on_input_end(error);
    }
    return;
  }
  later([this] { pump_input(); });
}

void StreamBackend::wait_for_input() {
  in_waiting_ = true;
  in_->async_wait(Descriptor::wait_read, guarded([this, session = in_session_] {
                    if (session != in_session_) return;
                    in_waiting_ = false;
                    pump_input();
                  }));
}

void StreamBackend::set_size(devices::CharSize size) {
  if (size_.exchange(size) != size && receiver_ != nullptr) receiver_->resized();
}

void StreamBackend::salvage_input() {
  if (in_ == nullptr) return;
  std::array<std::byte, kChunk> chunk;
  // A socket's buffer holds a few hundred KiB at most and nobody adds to it any more.
  for (int round = 0; round < 4 * kRounds; ++round) {
    const ssize_t n = ::read(in_->native_handle(), chunk.data(), chunk.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;
    const auto count = static_cast<std::size_t>(n);
    const std::size_t kept = pending_.push(std::span(chunk).first(count));
    const std::lock_guard lock(mutex_);
    counters_.rx_dropped += count - kept;
  }
}

devices::CharCounters StreamBackend::counters() const {
  const std::lock_guard lock(mutex_);
  devices::CharCounters counters = counters_;
  counters.tx_queued = queue_.size();
  return counters;
}

}  // namespace vmmd::chardev
