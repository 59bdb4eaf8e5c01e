#include "devices/virtio/balloon.h"

#include <algorithm>
#include <cstring>

#include "proto/state.pb.h"

namespace vmmd::devices {

namespace {

// virtio 1.2, 5.5.6.3, and those that Linux has added since; by tag.
constexpr auto kStatNameOf = std::to_array<const char*>(
    {"swap_in", "swap_out", "major_faults", "minor_faults", "free_memory", "total_memory", "available_memory",
     "disk_caches", "hugetlb_allocations", "hugetlb_failures", "oom_kills", "allocation_stalls",
     "async_scans", "direct_scans", "async_reclaims", "direct_reclaims"});

// struct virtio_balloon_stat: le16 tag, le64 value, packed.
constexpr std::size_t kStatSize = 10;
constexpr std::size_t kMaxStats = 64;  // of one buffer

// struct virtio_balloon_config: num_pages, actual.
constexpr std::uint64_t kActualOffset = 4;
constexpr std::uint64_t kConfigSize = 8;

std::uint32_t pages_of(std::uint64_t bytes, std::uint64_t limit) {
  return static_cast<std::uint32_t>(
      std::min<std::uint64_t>({bytes / VirtioBalloon::kPageSize, limit, UINT32_MAX}));
}

}  // namespace

VirtioBalloon::VirtioBalloon(const Config& config, EventLoop& loop, MemoryReclaim& reclaim,
                             DeviceEvents& events)
    : SimpleDevice(loop),
      config_(config),
      ram_pages_(pages_of(config.ram_size, UINT32_MAX)),
      reclaim_(reclaim),
      events_(events),
      anchor_(std::make_shared<Anchor>(Anchor{*this, loop})) {
  static_assert(kStatNameOf.size() == kStatNames);
  state_.target_pages = pages_of(config.size, ram_pages_);
}

void VirtioBalloon::resize(std::uint64_t bytes) {
  const std::uint32_t pages = pages_of(bytes, ram_pages_);
  if (state_.target_pages.exchange(pages) == pages) return;
  state_.announce = true;
  anchor_->loop.post([weak = std::weak_ptr(anchor_)] {
    if (const auto anchor = weak.lock()) anchor->device.announce();
  });
}

void VirtioBalloon::announce() {
  if (running() && state_.announce.exchange(false)) run().transport->interrupt_config();
}

std::uint64_t VirtioBalloon::actual_bytes() const {
  return std::uint64_t{std::min(state_.actual_pages.load(), ram_pages_)} * kPageSize;
}

std::uint64_t VirtioBalloon::features() const {
  return kStatsVq | (config_.deflate_on_oom ? kDeflateOnOom : 0) |
         (config_.free_page_reporting ? kPageReporting : 0) | kMustTellHost;
}

std::vector<std::uint16_t> VirtioBalloon::queue_sizes() const {
  return std::vector<std::uint16_t>(config_.free_page_reporting ? 4 : 3, kQueueSize);
}

std::uint64_t VirtioBalloon::read_config(std::uint64_t offset, unsigned width) {
  const std::array words{state_.target_pages.load(), state_.actual_pages.load()};
  return read_config_bytes(std::as_bytes(std::span(words)), offset, width);
}

void VirtioBalloon::write_config(std::uint64_t offset, unsigned width, std::uint64_t value) {
  std::uint32_t actual = state_.actual_pages;
  for (unsigned i = 0; i < width; ++i, value >>= 8) {
    if (offset + i < kActualOffset || offset + i >= kConfigSize) continue;
    const std::uint64_t shift = (offset + i - kActualOffset) * 8;
    actual = static_cast<std::uint32_t>((actual & ~(0xffULL << shift)) | (value & 0xff) << shift);
  }
  state_.actual_pages = actual;
}

void VirtioBalloon::on_start() {
  partial_.count = 0;
  progress_ = {};
  announce();
}

bool VirtioBalloon::is_stats(unsigned index) const {
  return index == kStats && (run().features & kStatsVq) != 0;
}

std::optional<std::uint32_t> VirtioBalloon::handle(unsigned index, const Chain& chain) {
  Progress& progress = progress_.at(index);
  bool done = true;
  if (index == kInflate) {
    done = for_each_batch(chain, progress, [this](std::span<std::uint32_t> pages) { inflate(pages); });
  } else if (index == kDeflate) {
    done = for_each_batch(chain, progress, [this](std::span<std::uint32_t> pages) { deflate(pages); });
  } else if (is_stats(index)) {
    // The driver waits until this buffer comes back before it sends the next statistics.
    if (!return_stats_) {
      read_stats(chain);
      return std::nullopt;
    }
    return_stats_ = false;
  } else if ((run().features & kPageReporting) != 0) {
    done = take_reports(chain, progress);
  }
  if (!done) return std::nullopt;
  progress = {};
  return 0;
}

// False: the rest in another turn. The chain may be another by then, if the driver is a strange one: then it
// is that driver's loss.
template <class Each>
bool VirtioBalloon::for_each_batch(const Chain& chain, Progress& progress, Each each) {
  const std::uint64_t sent = chain.readable_size() / sizeof(std::uint32_t);
  const std::uint64_t count = std::min(sent, kMaxPages);
  while (progress.pages < count) {
    if (turn_is_over()) return false;
    const auto batch = std::span(batch_).first(std::min<std::uint64_t>(count - progress.pages, kBatchPages));
    if (!chain.copy_out(progress.pages * sizeof(std::uint32_t), std::as_writable_bytes(batch))) break;
    each(batch);
    progress.pages += batch.size();
    charge(batch.size() * kCostOfPage);
  }
  ignored_pages_ += static_cast<std::int64_t>(sent - count);
  return true;
}

// As for_each_batch(), in pieces that end where the reclaim's do, so that none is lost between two.
bool VirtioBalloon::take_reports(const Chain& chain, Progress& progress) {
  const std::uint64_t most = std::max(kMostOfCall, reclaim_.granularity());
  for (; progress.segment < chain.writable.size(); ++progress.segment, progress.bytes = 0) {
    const Segment& segment = chain.writable[progress.segment];
    while (progress.bytes < segment.length) {
      if (turn_is_over()) return false;
      const std::uint64_t start = segment.address.value + progress.bytes;
      const std::uint64_t length = std::min(segment.length - progress.bytes, most - start % most);
      discard(start, length);
      reported_bytes_ += static_cast<std::int64_t>(length);
      progress.bytes += length;
    }
  }
  return true;
}

// Drivers send neighbours in any order, often backwards: one call to the host for each run of them.
void VirtioBalloon::inflate(std::span<std::uint32_t> pages) {
  std::ranges::sort(pages);
  std::uint64_t start = 0;
  std::uint64_t end = 0;
  for (const std::uint32_t page : pages) {
    const std::uint64_t address = page * kPageSize;
    if (!run().memory->contains(GuestAddress(address), kPageSize)) {
      ++ignored_pages_;
      continue;
    }
    ++inflated_pages_;
    if (address + kPageSize == end) continue;  // sent twice
    if (address != end) {
      give(start, end - start);
      start = address;
    }
    end = address + kPageSize;
  }
  give(start, end - start);
}

void VirtioBalloon::deflate(std::span<const std::uint32_t> pages) {
  deflated_pages_ += static_cast<std::int64_t>(pages.size());
  const std::uint64_t piece = reclaim_.granularity();
  for (const std::uint32_t page : pages) {
    if (page * kPageSize / piece * piece == partial_.start) partial_.count = 0;
  }
}

void VirtioBalloon::give(std::uint64_t start, std::uint64_t length) {
  if (reclaim_.granularity() <= kPageSize) {
    if (length != 0) discard(start, length);
    return;
  }
  for (std::uint64_t done = 0; done < length; done += kPageSize) give_page(start + done);
}

void VirtioBalloon::give_page(std::uint64_t address) {
  if ((run().features & kMustTellHost) == 0) return;  // it may use its neighbours again without a word
  const std::uint64_t piece = reclaim_.granularity();
  const std::uint64_t start = address / piece * piece;
  if (partial_.count == 0 || partial_.start != start) {
    partial_.start = start;
    partial_.count = 0;
    partial_.given.assign(piece / kPageSize, false);
  }
  const std::size_t index = (address - start) / kPageSize;
  if (partial_.given[index]) return;
  partial_.given[index] = true;
  if (++partial_.count < partial_.given.size()) return;
  partial_.count = 0;
  discard(start, piece);
}

void VirtioBalloon::discard(std::uint64_t start, std::uint64_t length) {
  charge(kCostOfCall + length / kPageSize * kCostOfPage);
  const auto discarded = reclaim_.discard(GuestAddress(start), length);
  if (discarded) {
    discarded_bytes_ += static_cast<std::int64_t>(*discarded);
    run().memory->mark_dirty(GuestAddress(start), length);
    return;
  }
  ++discard_failures_;
  if (discard_failed_) return;
  discard_failed_ = true;
  events_.backend_failed(unit_name(), discarded.error().to_string());
}

void VirtioBalloon::read_stats(const Chain& chain) {
  const std::uint64_t count = std::min<std::uint64_t>(chain.readable_size() / kStatSize, kMaxStats);
  const std::lock_guard lock(stats_mutex_);
  for (std::uint64_t i = 0; i < count; ++i) {
    std::array<std::byte, kStatSize> entry{};
    if (!chain.copy_out(i * kStatSize, entry)) return;
    std::uint16_t tag = 0;
    std::int64_t value = 0;
    std::memcpy(&tag, entry.data(), sizeof tag);
    std::memcpy(&value, entry.data() + sizeof tag, sizeof value);
    if (tag < stats_.size()) stats_[tag] = value;
  }
  ++stats_updates_;
}

void VirtioBalloon::ask_for_stats() {
  asking_ = false;
  if (!running() || !is_stats(kStats)) return;
  return_stats_ = true;
  process(kStats);
}

Result<UnitState> VirtioBalloon::save() const {
  const auto& [target_pages, actual_pages, announce] = state_;
  state::VirtioBalloon message;
  message.set_target_pages(target_pages);
  message.set_actual_pages(actual_pages);
  message.set_announce(announce);
  return pack_state(message);
}

Status VirtioBalloon::restore(const UnitState& state) {
  state::VirtioBalloon message;
  VMMD_TRY(unpack_state(state, unit_name(), 1, message));
  if (message.target_pages() > ram_pages_) {
    return fail(ErrorCode::BadRequest, "unit {}: {} pages are asked for, RAM has {}", unit_name(),
                message.target_pages(), ram_pages_);
  }
  auto& [target_pages, actual_pages, announce] = state_;
  target_pages = message.target_pages();
  actual_pages = message.actual_pages();
  announce = message.announce();
  return {};
}

// What the host asks for stays: it is not the guest's.
void VirtioBalloon::reset() {
  state_.actual_pages = 0;
  state_.announce = false;
  return_stats_ = false;
}

std::map<std::string, std::int64_t> VirtioBalloon::counters() const {
  std::map<std::string, std::int64_t> counters{
      {"actual_bytes", static_cast<std::int64_t>(actual_bytes())},
      {"deflated_pages", deflated_pages_},
      {"discard_failures", discard_failures_},
      {"discarded_bytes", discarded_bytes_},
      {"ignored_pages", ignored_pages_},
      {"inflated_pages", inflated_pages_},
      {"reported_bytes", reported_bytes_},
      {"stats_updates", stats_updates_},
      {"target_bytes", static_cast<std::int64_t>(state_.target_pages * kPageSize)}};
  {
    const std::lock_guard lock(stats_mutex_);
    for (std::size_t tag = 0; tag < stats_.size(); ++tag) {
      if (stats_[tag]) counters[std::string("stat_") + kStatNameOf[tag]] = *stats_[tag];
    }
  }
  if (!asking_.exchange(true)) {
    anchor_->loop.post([weak = std::weak_ptr(anchor_)] {
      if (const auto anchor = weak.lock()) anchor->device.ask_for_stats();
    });
  }
  return counters;
}

}  // namespace vmmd::devices
