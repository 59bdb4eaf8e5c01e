#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <stop_token>
#include <string>
#include <utility>

#include "api/types.h"
#include "base/result.h"

namespace vmmd::snapshot {

/// One piece of long work: its progress, which any thread may read, and whether somebody wants it to stop.
class Job {
 public:
  Job(std::string id, std::string kind) : id_(std::move(id)), kind_(std::move(kind)) {}

  [[nodiscard]] const std::string& id() const { return id_; }

  /// Who is told of progress, at most ten times a second, by whichever thread does the work. Before it
  /// starts.
  void set_listener(std::function<void(const api::JobStatus&)> listener) { listener_ = std::move(listener); }

  /// `name` is a literal.
  void enter_phase(const char* name) { phase_.store(name); }
  void set_total(std::uint64_t bytes) { total_.store(bytes); }
  void add_done(std::uint64_t bytes) {
    done_.fetch_add(bytes, std::memory_order_relaxed);
    tell();
  }
  void set_progress(std::uint64_t done, std::uint64_t total) {
    total_.store(total);
    done_.store(done);
    tell();
  }
  [[nodiscard]] std::uint64_t done() const { return done_.load(); }
  [[nodiscard]] std::uint64_t total() const { return total_.load(); }

  void cancel() { stop_.request_stop(); }
  [[nodiscard]] bool cancelled() const { return stop_.stop_requested(); }
  /// For those who wait: is told when somebody cancels.
  [[nodiscard]] std::stop_token stop_token() const { return stop_.get_token(); }
  /// An error if somebody cancelled.
  [[nodiscard]] Status check() const {
    if (cancelled()) return fail(ErrorCode::Conflict, "{} was cancelled", id_);
    return {};
  }

  [[nodiscard]] api::JobStatus status() const {
    const std::chrono::duration<double> age = std::chrono::steady_clock::now() - started_;
    return {id_, kind_, phase_.load(), done(), total(), age.count()};
  }

 private:
  void tell() {
    if (!listener_) return;
    const auto now = std::chrono::steady_clock::now().time_since_epoch().count();
    auto last = last_told_.load(std::memory_order_relaxed);
    if (now - last < std::chrono::nanoseconds(kTellInterval).count()) return;
    if (last_told_.compare_exchange_strong(last, now)) listener_(status());
  }

  static constexpr std::chrono::milliseconds kTellInterval{100};

  const std::string id_;
  const std::string kind_;
  const std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
  std::atomic<const char*> phase_ = "queued";
  std::atomic<std::uint64_t> done_ = 0;   // bytes
  std::atomic<std::uint64_t> total_ = 0;  // bytes
  std::stop_source stop_;
  std::function<void(const api::JobStatus&)> listener_;
  std::atomic<std::int64_t> last_told_ = 0;  // steady clock, ns
};

}  // namespace vmmd::snapshot
