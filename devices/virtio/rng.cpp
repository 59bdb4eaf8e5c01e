#include "devices/virtio/rng.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include "proto/state.pb.h"

namespace vmmd::devices {

std::optional<std::uint32_t> VirtioRng::handle(unsigned, const Chain& chain) {
  std::uint32_t written = 0;
  for (const Segment& segment : chain.writable) {
    std::uint32_t done = 0;
    while (done < segment.length && written < kMaxRequest) {
      const std::uint32_t want = std::min(segment.length - done, kMaxRequest - written);
      const std::uint32_t got = fill({segment.host + done, want});
      if (got == 0) {
        if (written == 0 && wait_for_source()) return std::nullopt;
        break;
      }
      done += got;
      written += got;
    }
    if (done < segment.length) break;
  }
  ++requests_;
  bytes_ += written;
  charge(written);
  return written;
}

std::uint32_t VirtioRng::fill(std::span<std::byte> out) {
  const bool failed_before = source_.failure() != 0;
  const std::size_t got = source_.fill(out);
  if (!failed_before && source_.failure() != 0) {
    ++source_failures_;
    events_.backend_failed(
        unit_name(), fmt::format("{} {}; from now on the host's getrandom serves the guest", source_.path(),
                                 source_.failure() == ENODATA
                                     ? "has ended"
                                     : fmt::format("cannot be read: {}", std::strerror(source_.failure()))));
  }
  return static_cast<std::uint32_t>(got);
}

bool VirtioRng::wait_for_source() {
  if (source_.wait_fd() < 0) return false;
  auto watch = loop().watch(source_.wait_fd(), FdEvent::Readable, [this] {
    const auto done = std::move(wait_);
    process(0);
  });
  if (!watch) return false;
  wait_ = std::move(*watch);
  return true;
}

Result<UnitState> VirtioRng::save() const {
  return pack_state(state::VirtioRng());
}

Status VirtioRng::restore(const UnitState& state) {
  state::VirtioRng message;
  return unpack_state(state, unit_name(), 1, message);
}

std::map<std::string, std::int64_t> VirtioRng::counters() const {
  return {{"bytes", bytes_}, {"requests", requests_}, {"source_failures", source_failures_}};
}

}  // namespace vmmd::devices
