#include "daemon/chardev/byte_queue.h"

#include <algorithm>
#include <utility>

namespace vmmd::chardev {

namespace {
constexpr std::size_t kSmallest = 256;
constexpr std::size_t kKeepAllocated = 4096;
}  // namespace

std::size_t ByteQueue::push(std::span<const std::byte> data) {
  const std::size_t count = std::min(data.size(), limit_ - size_);
  if (count == 0) return 0;
  reserve(size_ + count);
  const std::size_t tail = (head_ + size_) % ring_.size();
  const std::size_t first = std::min(count, ring_.size() - tail);
  std::copy_n(data.begin(), first, ring_.begin() + static_cast<std::ptrdiff_t>(tail));
  std::copy_n(data.begin() + static_cast<std::ptrdiff_t>(first), count - first, ring_.begin());
  size_ += count;
  return count;
}

std::size_t ByteQueue::push_newest(std::span<const std::byte> data, std::size_t keep) {
  keep = std::min(keep, limit_);
  std::size_t lost = 0;
  if (data.size() > keep) {
    lost = data.size() - keep;
    data = data.last(keep);
  }
  lost += trim(keep - data.size());
  push(data);
  return lost;
}

std::size_t ByteQueue::trim(std::size_t keep) {
  const std::size_t lost = size_ > keep ? size_ - keep : 0;
  pop(lost);
  return lost;
}

std::size_t ByteQueue::peek(std::span<std::byte> out) const {
  const std::size_t count = std::min(out.size(), size_);
  const std::size_t first = std::min(count, ring_.size() - head_);
  std::copy_n(ring_.begin() + static_cast<std::ptrdiff_t>(head_), first, out.begin());
  std::copy_n(ring_.begin(), count - first, out.begin() + static_cast<std::ptrdiff_t>(first));
  return count;
}

void ByteQueue::pop(std::size_t count) {
  if (count == 0) return;
  size_ -= count;
  head_ = (head_ + count) % ring_.size();
  if (size_ != 0) return;
  head_ = 0;
  if (ring_.size() > kKeepAllocated) ring_ = {};
}

void ByteQueue::reserve(std::size_t size) {
  if (size <= ring_.size()) return;
  std::vector<std::byte> larger(std::min(std::max({size, 2 * ring_.size(), kSmallest}), limit_));
  static_cast<void>(peek(larger));
  ring_ = std::move(larger);
  head_ = 0;
}

}  // namespace vmmd::chardev
