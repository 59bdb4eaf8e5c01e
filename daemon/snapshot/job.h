#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
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

  /// `name` is a literal.
  void enter_phase(const char* name) { phase_.store(name); }
  void set_total(std::uint64_t bytes) { total_.store(bytes); }
  void add_done(std::uint64_t bytes) { done_.fetch_add(bytes, std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t done() const { return done_.load(); }
  [[nodiscard]] std::uint64_t total() const { return total_.load(); }

  void cancel() { cancelled_.store(true); }
  [[nodiscard]] bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }
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
  const std::string id_;
  const std::string kind_;
  const std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
  std::atomic<const char*> phase_ = "queued";
  std::atomic<std::uint64_t> done_ = 0;   // bytes
  std::atomic<std::uint64_t> total_ = 0;  // bytes
  std::atomic<bool> cancelled_ = false;
};

}  // namespace vmmd::snapshot
