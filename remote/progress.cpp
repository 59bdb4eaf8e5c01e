#include "remote/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include <fmt/format.h>

#include "remote/table.h"

namespace vmmd::remote {

namespace {

constexpr std::string_view kWipe = "\r\x1b[K";  // to the start of the line, and clear it

std::size_t terminal_columns() {
  winsize size = {};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

}  // namespace

std::string progress_line(std::string_view what, std::string_view phase, std::uint64_t done,
                          std::uint64_t total, double seconds, std::size_t columns) {
  std::string head = phase.empty() ? std::string(what) : fmt::format("{} {}", what, phase);
  if (total == 0) return head.substr(0, columns);
  done = std::min(done, total);
  const double part = static_cast<double>(done) / static_cast<double>(total);
  std::string tail = fmt::format(" {:3.0f}%  {} of {}", part * 100, format_size(done), format_size(total));
  if (seconds > 0.2) {
    tail +=
        fmt::format("  {}/s", format_size(static_cast<std::uint64_t>(static_cast<double>(done) / seconds)));
  }
  constexpr std::size_t kLeast = 10, kMost = 40;            // width of the bar
  const std::size_t fixed = head.size() + tail.size() + 3;  // a space and two brackets
  if (columns < fixed + kLeast) return (head + tail).substr(0, columns);
  const std::size_t bar = std::min(kMost, columns - fixed);
  const auto full = static_cast<std::size_t>(part * static_cast<double>(bar));
  return fmt::format("{} [{}{}]{}", head, std::string(full, '='), std::string(bar - full, ' '), tail);
}

ProgressBar::ProgressBar(std::string what, bool shown) : what_(std::move(what)), shown_(shown) {}

ProgressBar::~ProgressBar() {
  if (!drawn_) return;
  std::fwrite(kWipe.data(), 1, kWipe.size(), stderr);
  std::fflush(stderr);
}

void ProgressBar::update(std::uint64_t done, std::uint64_t total, std::string_view phase) {
  if (!shown_) return;
  const std::chrono::duration<double> age = std::chrono::steady_clock::now() - started_;
  // The last column stays free: a full line would make some terminals scroll.
  const std::string line = progress_line(what_, phase, done, total, age.count(), terminal_columns() - 1);
  fmt::print(stderr, "{}{}", kWipe, line);
  std::fflush(stderr);
  drawn_ = true;
}

void ProgressBar::note(std::string_view text) {
  fmt::print(stderr, "{}{}\n", drawn_ ? kWipe : "\n", text);
  std::fflush(stderr);
}

}  // namespace vmmd::remote
