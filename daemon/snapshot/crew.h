#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <stop_token>
#include <thread>
#include <vector>

namespace vmmd::snapshot {

/// Threads that work for somebody who may go before they are done. What is his they use only while they are
/// in. A system call that may wait for the disk, which nothing can interrupt, they make outside; who is
/// outside when he goes never comes in again.
class Crew {
 public:
  class Member {
   public:
    explicit Member(Crew& crew) : crew_(crew) {}
    ~Member() { crew_.end(in_); }
    Member(const Member&) = delete;
    Member& operator=(const Member&) = delete;

    /// Makes `call` outside. False: he has gone. Nothing of his may be used any more, and no other call made.
    template <class Call>
    [[nodiscard]] bool outside(Call call) {
      crew_.step_out();
      call();
      in_ = crew_.step_in();
      return in_;
    }

   private:
    Crew& crew_;
    bool in_ = true;
  };

  /// What each thread does. Owns whatever it uses outside.
  using Work = std::function<void(Member&)>;
  /// Takes over the threads that stay behind: joining them waits for the disk.
  using Leave = std::function<void(std::vector<std::jthread>)>;

  /// Runs `work` on `count` threads, or on as many as there are to be had, and waits until all have returned;
  /// once `stop` comes, only until all have returned or are outside. Without `leave` it waits for those, too.
  static void run(unsigned count, const Work& work, const std::stop_token& stop, const Leave& leave);

 private:
  explicit Crew(unsigned count) : working_(count), in_(count) {}
  void step_out();
  bool step_in();
  void end(bool was_in);
  bool wait(const std::stop_token& stop);

  std::mutex mutex_;
  std::condition_variable_any changed_;
  unsigned working_;   // have not returned; guarded by mutex_
  unsigned in_;        // of those; guarded by mutex_
  bool gone_ = false;  // guarded by mutex_
};

}  // namespace vmmd::snapshot
