#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <utility>

#include <boost/asio/posix/stream_descriptor.hpp>

#include "base/unique_fd.h"
#include "daemon/chardev/byte_queue.h"
#include "daemon/loop/device_loop.h"
#include "devices/char_backend.h"

namespace vmmd::chardev {

/// What all backends with file descriptors share: the queue between vCPUs and the loop, and moving bytes.
///
/// Output and input are opened and closed separately, on the loop's thread, as the other end comes and goes.
/// While output is closed, the newest kKept bytes wait for the next peer (NoPeer::Keep), or all of it is
/// dropped (NoPeer::Drop). Descriptors do not block; the loop waits for them only after EAGAIN, so that files
/// which epoll does not know (regular ones, /dev/null) work too.
///
/// Threads: members marked (loop) run on the loop's thread only. `mutex_` guards the queue and the counters;
/// nobody is called with it held. A destructor of a subclass calls shut_down() first: its hooks are gone
/// after.
class StreamBackend : public devices::CharBackend {
 public:
  static constexpr std::size_t kQueueLimit = std::size_t{1} << 20;
  static constexpr std::size_t kKept = 64 << 10;

  void write(std::span<const std::byte> data) final;
  void set_receiver(devices::CharReceiver* receiver) final;
  void receiver_ready() final;
  void drain(std::chrono::milliseconds limit) final;
  [[nodiscard]] devices::CharCounters counters() const final;
  [[nodiscard]] devices::CharSize size() const final { return size_; }

 protected:
  using Descriptor = boost::asio::posix::stream_descriptor;
  enum class NoPeer : std::uint8_t { Drop, Keep };
  enum class Input : std::uint8_t { Comes, Never };

  /// Where input never comes the loop is not woken for its receiver.
  StreamBackend(loop::DeviceLoop& loop, NoPeer no_peer, Input input = Input::Comes);
  ~StreamBackend() override;
  StreamBackend(const StreamBackend&) = delete;
  StreamBackend& operator=(const StreamBackend&) = delete;

  /// No handler of this object runs after this.
  void shut_down();

  /// Registers `fd` with the loop. Any thread.
  [[nodiscard]] std::shared_ptr<Descriptor> make_descriptor(UniqueFd fd);
  /// Wraps work for the loop, so that it is skipped once the object is shut down.
  template <class F>
  auto guarded(F work) {
    return [weak = std::weak_ptr<const int>(alive_), work = std::move(work)](auto&&...) {
      if (!weak.expired()) work();
    };
  }
  /// Runs `work` on the loop, later.
  template <class F>
  void later(F work) {
    loop_.post(guarded(work));
  }

  // (loop); a constructor may open them too, before it gives the loop anything to do.
  void open_output(std::shared_ptr<Descriptor> descriptor);
  void open_input(std::shared_ptr<Descriptor> descriptor);
  /// These forget the descriptor (and close it where nobody else holds it). Nothing if closed already.
  void close_output();
  void close_input();
  [[nodiscard]] bool output_open() const { return out_ != nullptr; }
  [[nodiscard]] bool input_open() const { return in_ != nullptr; }
  /// Takes what input still holds, as far as kKept bytes allow, for the receiver to get in its time.
  void salvage_input();
  /// Drops all queued output, counted.
  void discard_output();

  /// What size() answers from now on; tells the receiver. (loop)
  void set_size(devices::CharSize size);

  /// Input came, and is about to go to the receiver. (loop)
  virtual void on_input() {}
  /// A write failed. (loop)
  virtual void on_output_error(int error) = 0;
  /// Input ended: `error` from read(), 0 at end of file. (loop)
  virtual void on_input_end(int error) = 0;

  loop::DeviceLoop& loop_;

 private:
  void flush();
  void pump_input();
  void wait_for_output();
  void wait_for_input();
  /// True once the receiver has everything that was read.
  [[nodiscard]] bool deliver();

  const NoPeer no_peer_;
  const Input input_;
  std::shared_ptr<const int> alive_ = std::make_shared<const int>(0);

  // (loop)
  std::shared_ptr<Descriptor> out_;
  std::shared_ptr<Descriptor> in_;
  std::uint64_t out_session_ = 0;  // completions of earlier sessions are stale
  std::uint64_t in_session_ = 0;
  bool in_waiting_ = false;
  devices::CharReceiver* receiver_ = nullptr;
  ByteQueue pending_{kKept};  // read from the host, not yet taken by the receiver

  std::atomic<devices::CharSize> size_ = devices::CharSize();
  std::atomic<bool> has_receiver_ = false;
  std::atomic<bool> ready_posted_ = false;

  mutable std::mutex mutex_;
  std::condition_variable settled_;  // queue empty, or nobody to read it
  ByteQueue queue_{kQueueLimit};
  bool peer_ = false;      // out_ != nullptr, for other threads
  bool flushing_ = false;  // flush() is posted, runs, or waits for the descriptor
  devices::CharCounters counters_;
};

}  // namespace vmmd::chardev
