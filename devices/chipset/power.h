#pragma once

namespace vmmd::devices {

/// Where a guest's request to reset or to power off goes. Called on vCPU threads: implementations only queue.
class PowerSink {
 public:
  virtual ~PowerSink() = default;
  virtual void request_reset() = 0;
  virtual void request_shutdown() = 0;
};

}  // namespace vmmd::devices
