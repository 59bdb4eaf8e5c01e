#include "devices/guest_memory.h"

#include <algorithm>
#include <utility>

namespace vmmd::devices {

GuestMemory::GuestMemory(std::vector<GuestRegion> regions) : regions_(std::move(regions)) {}

const GuestRegion* GuestMemory::find(GuestAddress address) const {
  for (const GuestRegion& region : regions_) {
    if (address >= region.start && address.value - region.start.value < region.size) return &region;
  }
  return nullptr;
}

// Calls step(host, done, n) for each contiguous piece. Nothing is touched unless the whole range is RAM.
template <class Step>
bool GuestMemory::walk(GuestAddress address, std::uint64_t length, Step step) const {
  if (!contains(address, length)) return false;
  std::uint64_t done = 0;
  while (done < length) {
    const GuestAddress at(address.value + done);
    const GuestRegion* region = find(at);
    const std::uint64_t offset = at.value - region->start.value;
    const std::uint64_t n = std::min(length - done, region->size - offset);
    step(region->host + offset, done, n);
    done += n;
  }
  return true;
}

bool GuestMemory::contains(GuestAddress address, std::uint64_t length) const {
  if (!address.checked_add(length)) return false;
  std::uint64_t done = 0;
  do {
    const GuestAddress at(address.value + done);
    const GuestRegion* region = find(at);
    // A range of no bytes may lie just behind the last byte, but nothing else may.
    if (region == nullptr) return length == 0;
    done += region->size - (at.value - region->start.value);
  } while (done < length);
  return true;
}

bool GuestMemory::read(GuestAddress address, std::span<std::byte> out) const {
  return walk(address, out.size(), [&](const std::byte* host, std::uint64_t done, std::uint64_t n) {
    std::memcpy(out.data() + done, host, n);
  });
}

bool GuestMemory::write(GuestAddress address, std::span<const std::byte> data) const {
  const bool written = walk(address, data.size(), [&](std::byte* host, std::uint64_t done, std::uint64_t n) {
    std::memcpy(host, data.data() + done, n);
  });
  if (written) mark_dirty(address, data.size());
  return written;
}

bool GuestMemory::fill(GuestAddress address, std::uint64_t length, std::byte value) const {
  const bool written = walk(address, length, [&](std::byte* host, std::uint64_t, std::uint64_t n) {
    std::memset(host, static_cast<int>(value), n);
  });
  if (written) mark_dirty(address, length);
  return written;
}

std::span<std::byte> GuestMemory::slice(GuestAddress address, std::uint64_t length) const {
  const GuestRegion* region = find(address);
  if (region == nullptr || length > region->size - (address.value - region->start.value)) return {};
  return {region->host + (address.value - region->start.value), length};
}

void GuestMemory::mark_dirty(GuestAddress address, std::uint64_t length) const {
  if (dirty_ != nullptr && length != 0) dirty_->mark_dirty(address, length);
}

std::uint64_t GuestMemory::total_size() const {
  std::uint64_t sum = 0;
  for (const GuestRegion& region : regions_) sum += region.size;
  return sum;
}

}  // namespace vmmd::devices
