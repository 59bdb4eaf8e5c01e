#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace vmmd::remote {

/// One line on the terminal that says how far something is. Draws on standard error; not thread-safe.
class ProgressBar {
 public:
  /// `shown` false: does nothing at all.
  ProgressBar(std::string what, bool shown);
  /// Wipes the line, so that what comes next stands alone.
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void update(std::uint64_t done, std::uint64_t total, std::string_view phase = {});
  /// A line of its own above the bar; also when the bar is not shown.
  void note(std::string_view text);

 private:
  const std::string what_;
  const bool shown_;
  bool drawn_ = false;
  const std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
};

/// "snapshot-1 memory [=====>    ]  50%  1.2 GiB of 2.4 GiB  800 MiB/s" for a terminal of `columns`; without
/// a total, no bar.
[[nodiscard]] std::string progress_line(std::string_view what, std::string_view phase, std::uint64_t done,
                                        std::uint64_t total, double seconds, std::size_t columns);

}  // namespace vmmd::remote
