#include "daemon/control/memory_watch.h"

#include <utility>

#include "daemon/log.h"

namespace vmmd::control {

MemoryWatch::MemoryWatch(loop::DeviceLoop& loop, int fd, std::function<void()> lost)
    : loop_(loop), state_(std::make_shared<State>(State{std::move(lost), nullptr})) {
  loop_.post([&loop, fd, state = state_] {
    auto watch = loop.watch(fd, devices::FdEvent::Readable, [raw = state.get()] {
      const auto tell = std::exchange(raw->lost, nullptr);
      raw->watch.reset();
      if (tell) tell();
    });
    if (watch) {
      state->watch = std::move(*watch);
    } else {
      log_warning("lost guest memory would go unnoticed: {}", watch.error().to_string());
    }
  });
}

MemoryWatch::~MemoryWatch() {
  loop_.run_sync([this] { state_->watch.reset(); });
}

}  // namespace vmmd::control
