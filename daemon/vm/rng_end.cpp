#include "daemon/vm/rng_end.h"

#include <utility>

#include "devices/virtio/rng.h"

namespace vmmd::vm {

Result<std::unique_ptr<HostEnd>> RngEnd::open(const api::RngConfig& config) {
  auto source = devices::EntropySource::open(config.src);
  if (!source) return wrap(std::move(source).error(), "cannot open the source of rng");
  return std::unique_ptr<HostEnd>(new RngEnd(std::move(*source)));
}

Result<std::unique_ptr<devices::VirtioDevice>> RngEnd::make_device(const DeviceGlue& glue) {
  return std::unique_ptr<devices::VirtioDevice>(
      std::make_unique<devices::VirtioRng>(glue.loop, source_, glue.events));
}

}  // namespace vmmd::vm
