#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace vmmd::devices {

/// The device's end of a character stream: where input from the host goes.
class CharReceiver {
 public:
  virtual ~CharReceiver() = default;
  /// Offers input. Takes as many leading bytes as there is room for and returns how many. After taking fewer
  /// than offered, nothing more is offered until the device calls CharBackend::receiver_ready(). Called on
  /// the backend's thread, never inside a call to the backend.
  virtual std::size_t receive(std::span<const std::byte> data) = 0;
  /// CharBackend::size() may have changed. On the backend's thread.
  virtual void resized() {}
};

/// The size of a terminal, in characters; both zero: unknown.
struct CharSize {
  std::uint16_t columns = 0;
  std::uint16_t rows = 0;
  bool operator==(const CharSize&) const = default;
};

/// What a backend has seen since it was opened, in bytes.
struct CharCounters {
  std::uint64_t tx_bytes = 0;    // handed to the host
  std::uint64_t tx_dropped = 0;  // lost: the queue was full, or the host refused them
  std::uint64_t tx_queued = 0;   // waiting now
  std::uint64_t rx_bytes = 0;    // taken by the device
  std::uint64_t rx_dropped = 0;  // lost: the peer left more behind than the device had taken in time
};

/// The host's end of a character stream: a pty, a socket, a file.
///
/// write() and receiver_ready() are for vCPU threads: thread-safe, they never block, and never call the
/// receiver, so that a device may hold its own lock. Lock order: device, then backend.
class CharBackend {
 public:
  virtual ~CharBackend() = default;

  /// Output. It is queued; what does not fit into the bounded queue is dropped and counted.
  virtual void write(std::span<const std::byte> data) = 0;

  /// Who gets the input; nobody (nullptr) at first. Nothing is read from the host without a receiver. Waits
  /// for a running receive(): once this returns the former receiver is not called again, so do not hold a
  /// lock that receive() takes.
  virtual void set_receiver(CharReceiver* receiver) = 0;

  /// There is room again after a short receive(): input goes on.
  virtual void receiver_ready() = 0;

  /// Waits until the host has all output written so far, or `limit` has passed, or nobody is there to read
  /// it. For orderly shutdown, never from a vCPU thread or a callback.
  virtual void drain(std::chrono::milliseconds limit) = 0;

  [[nodiscard]] virtual CharCounters counters() const = 0;

  /// Where the user finds the other end: "/dev/pts/3", a socket's or file's path. Empty where there is none.
  [[nodiscard]] virtual std::string path() const { return {}; }

  /// Of the host's terminal, if it is one. Any thread.
  [[nodiscard]] virtual CharSize size() const { return {}; }
};

}  // namespace vmmd::devices
