#include "devices/pci/msix.h"

#include <array>

namespace vmmd::devices {

namespace {

// Message control, 6.8.2.3.
constexpr unsigned kControl = 2;  // from the capability's start
constexpr std::uint32_t kEnable = 1U << 15;
constexpr std::uint32_t kFunctionMask = 1U << 14;

constexpr std::uint32_t kVectorMask = 1;       // vector control
constexpr std::uint64_t kAddressMask = ~3ULL;  // a message is an aligned double word
constexpr unsigned kWordsPerEntry = Msix::kEntrySize / 4;

}  // namespace

Msix::Msix(unsigned vectors, MsiSink& sink) : sink_(sink), entries_(vectors) {}

unsigned Msix::add_capability(CapabilityChain& chain, ConfigSpace& space, Place place) {
  std::array<std::uint8_t, 10> body{};
  const auto put = [&body](unsigned at, unsigned width, std::uint32_t value) {
    for (unsigned i = 0; i < width; ++i) body.at(at + i) = static_cast<std::uint8_t>(value >> (8 * i));
  };
  put(0, 2, vectors() - 1);
  put(2, 4, place.table | place.bar);
  put(6, 4, place.pending | place.bar);
  capability_ = chain.add(kPciCapMsix, body);
  space.set_writable(capability_ + kControl, 2, kEnable | kFunctionMask);
  return capability_;
}

void Msix::update(const ConfigSpace& space) {
  const std::uint32_t control = space.read(capability_ + kControl, 2);
  const bool bus_master = (space.command() & kPciCommandBusMaster) != 0;
  const std::lock_guard lock(mutex_);
  enabled_ = (control & kEnable) != 0;
  masked_ = (control & kFunctionMask) != 0 || !bus_master;
  for (Entry& entry : entries_) {
    if (!enabled_) entry.pending = false;
    if (entry.pending) deliver(entry);
  }
}

std::uint32_t Msix::read_word(std::uint64_t index) const {
  if (index / kWordsPerEntry >= entries_.size()) return 0;
  const Entry& entry = entries_[index / kWordsPerEntry];
  switch (index % kWordsPerEntry) {
    case 0:
      return static_cast<std::uint32_t>(entry.message.address);
    case 1:
      return static_cast<std::uint32_t>(entry.message.address >> 32);
    case 2:
      return entry.message.data;
    default:
      return entry.masked ? kVectorMask : 0;
  }
}

void Msix::write_word(std::uint64_t index, std::uint32_t value) {
  if (index / kWordsPerEntry >= entries_.size()) return;
  Entry& entry = entries_[index / kWordsPerEntry];
  std::uint64_t& address = entry.message.address;
  switch (index % kWordsPerEntry) {
    case 0:
      address = (address & ~0xffff'ffffULL) | (value & kAddressMask);
      break;
    case 1:
      address = (address & 0xffff'ffffULL) | std::uint64_t{value} << 32;
      break;
    case 2:
      entry.message.data = value;
      break;
    default:
      entry.masked = (value & kVectorMask) != 0;
      if (entry.pending) deliver(entry);
  }
}

std::uint64_t Msix::read_table(std::uint64_t offset, unsigned width) const {
  const std::lock_guard lock(mutex_);
  if (width == 8) return read_word(offset / 4) | std::uint64_t{read_word(offset / 4 + 1)} << 32;
  return (read_word(offset / 4) >> (8 * (offset % 4))) & ((1ULL << (8 * width)) - 1);
}

void Msix::write_table(std::uint64_t offset, unsigned width, std::uint64_t value) {
  if (width < 4 || offset % 4 != 0) return;
  const std::lock_guard lock(mutex_);
  write_word(offset / 4, static_cast<std::uint32_t>(value));
  if (width == 8) write_word(offset / 4 + 1, static_cast<std::uint32_t>(value >> 32));
}

std::uint64_t Msix::read_pending(std::uint64_t offset, unsigned width) const {
  const std::lock_guard lock(mutex_);
  std::uint64_t value = 0;
  for (unsigned bit = 0; bit < 8 * width; ++bit) {
    const std::uint64_t vector = 8 * offset + bit;
    if (vector >= entries_.size()) break;
    if (entries_[vector].pending) value |= 1ULL << bit;
  }
  return value;
}

bool Msix::enabled() const {
  const std::lock_guard lock(mutex_);
  return enabled_;
}

void Msix::deliver(Entry& entry) {
  entry.pending = masked_ || entry.masked;
  if (entry.pending) return;
  sink_.signal(entry.message);
  ++sent_;
}

void Msix::signal(unsigned vector) {
  const std::lock_guard lock(mutex_);
  if (enabled_ && vector < entries_.size()) deliver(entries_[vector]);
}

std::int64_t Msix::sent() const {
  const std::lock_guard lock(mutex_);
  return sent_;
}

void Msix::save(state::Msix& message) const {
  const std::lock_guard lock(mutex_);
  for (const auto& [msi, masked, pending] : entries_) {
    auto& vector = *message.add_vectors();
    vector.set_address(msi.address);
    vector.set_data(msi.data);
    vector.set_masked(masked);
    vector.set_pending(pending);
  }
}

Status Msix::check(const state::Msix& message, std::string_view unit) const {
  if (message.vectors_size() != static_cast<int>(vectors())) {
    return fail(ErrorCode::BadRequest, "unit {}: {} MSI-X vectors in the snapshot, {} here", unit,
                message.vectors_size(), vectors());
  }
  for (int i = 0; i < message.vectors_size(); ++i) {
    if ((message.vectors(i).address() & ~kAddressMask) == 0) continue;
    return fail(ErrorCode::BadRequest, "unit {}: MSI-X vector {} has an impossible address {:#x}", unit, i,
                message.vectors(i).address());
  }
  return {};
}

void Msix::restore(const state::Msix& message) {
  const std::lock_guard lock(mutex_);
  for (unsigned i = 0; i < vectors(); ++i) {
    const auto& from = message.vectors(static_cast<int>(i));
    auto& [msi, masked, pending] = entries_[i];
    msi = {from.address(), from.data()};
    masked = from.masked();
    pending = from.pending();
  }
}

void Msix::reset() {
  const std::lock_guard lock(mutex_);
  entries_.assign(entries_.size(), {});
  enabled_ = masked_ = false;
}

}  // namespace vmmd::devices
