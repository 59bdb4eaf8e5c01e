#include "daemon/snapshot/crew.h"

#include <pthread.h>

#include <algorithm>
#include <memory>
#include <system_error>
#include <utility>

namespace vmmd::snapshot {

void Crew::run(unsigned count, const Work& work, const std::stop_token& stop, const Leave& leave) {
  const std::shared_ptr<Crew> crew(new Crew(count));
  std::vector<std::jthread> threads;
  try {
    while (threads.size() < count) {
      threads.emplace_back([crew, work] {
        pthread_setname_np(pthread_self(), "copy");
        Member member(*crew);
        work(member);
      });
    }
    // NOLINTNEXTLINE(bugprone-empty-catch): no more threads; those that run do the work
  } catch (const std::system_error&) {
  }
  for (auto ended = std::max<std::size_t>(threads.size(), 1); ended < count; ++ended) crew->end(true);
  if (threads.empty()) {
    Member member(*crew);
    work(member);
  }
  if (!crew->wait(leave ? stop : std::stop_token())) leave(std::move(threads));
}

void Crew::step_out() {
  const std::lock_guard lock(mutex_);
  if (--in_ == 0) changed_.notify_one();
}

bool Crew::step_in() {
  const std::lock_guard lock(mutex_);
  if (gone_) return false;
  ++in_;
  return true;
}

void Crew::end(bool was_in) {
  const std::lock_guard lock(mutex_);
  --working_;
  if (was_in) --in_;
  if (working_ == 0 || in_ == 0) changed_.notify_one();
}

// False: some have been left behind.
bool Crew::wait(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  if (changed_.wait(lock, stop, [this] { return working_ == 0; })) return true;
  gone_ = true;
  changed_.wait(lock, [this] { return in_ == 0; });
  return working_ == 0;
}

}  // namespace vmmd::snapshot
