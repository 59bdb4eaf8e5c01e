#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace vmmd::chardev {

/// A ring of bytes with a bound. It allocates as it fills and gives large memory back when it runs empty, so
/// that an idle VM pays nothing for the bound. Not thread-safe.
class ByteQueue {
 public:
  explicit ByteQueue(std::size_t limit) : limit_(limit) {}

  /// Appends the leading bytes for which there is room; returns how many.
  std::size_t push(std::span<const std::byte> data);
  /// Appends all of `data` and forgets the oldest bytes beyond `keep` (at most the limit); returns how many
  /// bytes were lost.
  std::size_t push_newest(std::span<const std::byte> data, std::size_t keep);
  /// Forgets the oldest bytes beyond `keep`; returns how many.
  std::size_t trim(std::size_t keep);

  /// Copies the oldest bytes without taking them; returns how many.
  [[nodiscard]] std::size_t peek(std::span<std::byte> out) const;
  /// Takes `count` bytes, at most size().
  void pop(std::size_t count);

  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] bool empty() const { return size_ == 0; }

 private:
  void reserve(std::size_t size);

  std::size_t limit_;
  std::vector<std::byte> ring_;
  std::size_t head_ = 0;
  std::size_t size_ = 0;
};

}  // namespace vmmd::chardev
