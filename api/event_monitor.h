#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "api/events.h"
#include "base/result.h"

namespace vmmd::api {

/// `--event-monitor PATH|path=PATH|fd=N`: appends each event as one line of JSON. Writing never blocks and
/// never fails anybody: a line that cannot be written whole at once (full pipe, full disk) is lost and
/// counted; the sequence numbers show the gap.
class EventMonitor {
 public:
  /// PATH is created 0600 or truncated; a FIFO needs its reader first. fd=N is taken over, as O_NONBLOCK.
  /// Every event after this call is written; those before finish() are written when it returns.
  static Result<std::unique_ptr<EventMonitor>> open(std::string_view spec, EventBus& bus);
  ~EventMonitor();
  EventMonitor(const EventMonitor&) = delete;
  EventMonitor& operator=(const EventMonitor&) = delete;

  /// Takes no more events, writes those it has and says how many lines were lost. The destructor does too.
  std::uint64_t finish();

 private:
  class Sink;
  EventMonitor();
  std::unique_ptr<Sink> sink_;
  std::shared_ptr<void> subscription_;  // destroyed first: nobody pushes into a sink that ends
};

}  // namespace vmmd::api
