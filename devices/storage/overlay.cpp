#include "devices/storage/overlay.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/file.h"

namespace vmmd::devices {

namespace {

constexpr std::uint64_t kSector = 512;
constexpr std::uint64_t kMemoryPage = 4096;
constexpr std::uint64_t kHeaderSize = 4096;
constexpr std::array<char, 8> kMagic{'v', 'm', 'm', 'd', 'o', 'v', 'l', 'y'};
constexpr std::uint32_t kVersion = 1;
constexpr std::uint64_t kMostBytes = std::uint64_t{1} << 56;  // of a disk; so sums below do not overflow

/// At the beginning of a layer's file; then the map, then the disk's bytes, each at its own offset.
struct Header {
  std::array<char, 8> magic;
  std::uint32_t version;
  std::uint32_t reserved;
  std::uint64_t disk_size;  // bytes
};

}  // namespace

/// What a request is divided into; it keeps its room for buffers.
struct Overlay::Part : DiskRequest {
  Job* job = nullptr;
};

struct Overlay::Job {
  enum class Step { Reading, Writing, Flushing };
  Overlay* overlay = nullptr;
  DiskRequest* request = nullptr;
  Step step = Step::Reading;
  std::uint64_t issued = 0;  // bytes of the request
  std::size_t buffer = 0;    // where `issued` is in the request's buffers
  std::uint64_t in_buffer = 0;
  unsigned pending = 0;
  int error = 0;
  std::uint64_t reserved = 0;  // bytes, of reserved_
  std::array<Part, 8> parts;

  /// Passes the request's next `length` bytes of buffers to `use`.
  template <class Use>
  void take_buffers(std::uint64_t length, Use use) {
    while (length > 0) {
      const iovec& whole = request->buffers[buffer];
      const std::uint64_t piece = std::min<std::uint64_t>(whole.iov_len - in_buffer, length);
      if (piece > 0) use(iovec{static_cast<char*>(whole.iov_base) + in_buffer, piece});
      length -= piece;
      in_buffer += piece;
      if (in_buffer < whole.iov_len) continue;
      ++buffer;
      in_buffer = 0;
    }
  }
};

Overlay::Overlay(std::string name, std::uint64_t size, std::unique_ptr<Disk> base,
                 std::unique_ptr<FrozenLayer> lower, std::unique_ptr<RawFile> upper, SectorMap map)
    : name_(std::move(name)),
      size_(size),
      base_(std::move(base)),
      lower_(std::move(lower)),
      upper_(std::move(upper)),
      map_(std::move(map)) {}

Overlay::~Overlay() = default;

Result<std::unique_ptr<Overlay>> Overlay::in_memory(std::unique_ptr<Disk> base,
                                                    std::unique_ptr<FrozenLayer> lower,
                                                    std::optional<std::uint64_t> limit) {
  VMMD_ASSIGN(const std::uint64_t size, base->size());
  VMMD_ASSIGN(SectorMap map, SectorMap::create(size / kSector));
  UniqueFd fd(::memfd_create("vmmd-overlay", MFD_CLOEXEC));
  if (!fd || ::ftruncate(fd.get(), static_cast<off_t>(size)) != 0)
    return fail_errno(ErrorCode::Internal, errno, "cannot make an overlay in memory for {}", base->name());
  const std::string name = base->name() + " (overlay in memory)";
  // Without io_uring: it is nothing but copying memory.
  VMMD_ASSIGN(auto upper, RawFile::adopt(std::move(fd), name, {.use_io_uring = false}));
  std::unique_ptr<RawFile> lower_file;
  if (lower) {
    UniqueFd copy(::fcntl(lower->fd(), F_DUPFD_CLOEXEC, 0));
    if (!copy) return fail_errno(ErrorCode::Internal, errno, "cannot duplicate {}", lower->name());
    VMMD_ASSIGN(lower_file, RawFile::adopt(std::move(copy), lower->name(), {.readonly = true}));
  }
  std::unique_ptr<Overlay> overlay(
      new Overlay(name, size, std::move(base), std::move(lower), std::move(upper), std::move(map)));
  overlay->lower_file_ = std::move(lower_file);
  overlay->limit_ = limit;
  return overlay;
}

Result<std::unique_ptr<Overlay>> Overlay::in_file(std::unique_ptr<Disk> base, const std::string& path) {
  VMMD_ASSIGN(const std::uint64_t size, base->size());
  if (size > kMostBytes) return fail(ErrorCode::TooLarge, "{} is too large for an overlay", base->name());
  VMMD_ASSIGN(SectorMap map, SectorMap::create(size / kSector));
  const std::uint64_t data_start = kHeaderSize + map.size_bytes();
  {
    VMMD_ASSIGN(const UniqueFd fd, open_file(path, O_RDWR | O_CREAT | O_NONBLOCK, 0600));
  }
  VMMD_ASSIGN(auto upper, RawFile::open(path, {}));
  const int fd = upper->fd();
  VMMD_ASSIGN(const std::uint64_t length, upper->size());
  Header header{kMagic, kVersion, 0, size};
  if (length == 0) {  // made by us, or by the user for us
    VMMD_TRY(write_all_at(fd, std::as_bytes(std::span(&header, 1)), 0, path));
    if (::ftruncate(fd, static_cast<off_t>(data_start + size)) != 0 || ::fsync(fd) != 0)
      return fail_errno(ErrorCode::BadRequest, errno, "cannot make the overlay {}", path);
  } else {
    VMMD_TRY(read_exact_at(fd, std::as_writable_bytes(std::span(&header, 1)), 0, path));
    if (header.magic != kMagic || header.version != kVersion) {
      return fail(ErrorCode::BadRequest,
                  "{} is not an overlay that this vmmd made: name a file that is not there yet", path);
    }
    if (header.disk_size != size) {
      return fail(ErrorCode::BadRequest, "the overlay {} is for a disk of {} bytes, {} has {}", path,
                  header.disk_size, base->name(), size);
    }
    if (length != data_start + size)
      return fail(ErrorCode::BadRequest, "the overlay {} is damaged: it has {} bytes", path, length);
  }
  const std::string name = base->name() + " (overlay " + path + ")";
  std::unique_ptr<Overlay> overlay(
      new Overlay(name, size, std::move(base), nullptr, std::move(upper), std::move(map)));
  overlay->map_start_ = kHeaderSize;
  overlay->data_start_ = data_start;
  VMMD_TRY(overlay->load_map());
  return overlay;
}

Status Overlay::load_map() {
  const std::uint64_t end = map_start_ + map_.size_bytes();
  std::array<std::byte, SectorMap::kPage> page{};
  // What was never written is a hole; only the rest is read.
  for (std::uint64_t at = map_start_; at < end;) {
    const off_t data = ::lseek(upper_->fd(), static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;
    if (data < 0) return fail_errno(ErrorCode::Internal, errno, "cannot read the map of {}", name_);
    at = std::max(at, static_cast<std::uint64_t>(data) / SectorMap::kPage * SectorMap::kPage);
    if (at >= end) break;
    VMMD_TRY(read_exact_at(upper_->fd(), page, at, name_));
    map_.load_page(at - map_start_, page);
    at += SectorMap::kPage;
  }
  return {};
}

// Pages that were taken before the data they speak of was flushed.
Status Overlay::write_map(std::span<const SectorMap::Page> pages) {
  for (const SectorMap::Page& page : pages)
    VMMD_TRY(write_all_at(upper_->fd(), page.bytes, map_start_ + page.offset, name_));
  return {};
}

Status Overlay::start(EventLoop& loop, std::function<void()> batch_done) {
  loop_ = &loop;
  batch_done_ = std::move(batch_done);
  const auto done = [this] {
    kick();  // what was given to another layer meanwhile
    if (batch_done_) batch_done_();
  };
  VMMD_TRY(base_->start(loop, done));
  if (lower_file_) VMMD_TRY(lower_file_->start(loop, done));
  return upper_->start(loop, done);
}

void Overlay::stop() {
  base_->stop();
  if (lower_file_) lower_file_->stop();
  upper_->stop();
  if (map_start_ == 0) return;
  // So that a process that is killed while the VM is paused has lost nothing, and a snapshot finds it all.
  // After the data, as with a flush: the host may crash too.
  const auto pages = map_.take_changed();
  if (pages.empty()) return;
  if (::fdatasync(upper_->fd()) != 0 || !write_map(pages)) map_.give_back(pages);
}

bool Overlay::holds_up_loop() const {
  return base_->holds_up_loop() || map_start_ != 0 || (lower_file_ && lower_file_->holds_up_loop());
}

void Overlay::submit(DiskRequest& request) {
  if (free_.empty()) {
    free_.push_back(jobs_.emplace_back(std::make_unique<Job>()).get());
    free_.back()->overlay = this;
    for (Part& part : free_.back()->parts) {
      part.job = free_.back();
      part.done = [](DiskRequest& done) {
        auto& mine = static_cast<Part&>(done);
        mine.job->overlay->part_done(mine);
      };
    }
  }
  Job& job = *free_.back();
  free_.pop_back();
  job.request = &request;
  job.issued = job.buffer = job.in_buffer = 0;
  job.error = 0;
  switch (request.op) {
    case DiskOp::Read:
      job.step = Job::Step::Reading;
      break;
    case DiskOp::Flush:
      job.step = Job::Step::Flushing;
      break;
    default:
      job.step = Job::Step::Writing;
      if (!reserve_room(job)) job.error = ENOSPC;
  }
  go_on(job);
}

void Overlay::kick() {
  base_->kick();
  if (lower_file_) lower_file_->kick();
  upper_->kick();
}

// Nothing of the job is in flight.
void Overlay::go_on(Job& job) {
  if (job.error == 0) {
    switch (job.step) {
      case Job::Step::Reading:
        read_some(job);
        break;
      case Job::Step::Writing:
        if (job.issued == 0) write_all(job);
        break;
      case Job::Step::Flushing:
        if (map_start_ == 0) break;  // memory
        flush_next_.push_back(&job);
        begin_flush();
        return;
    }
  }
  if (job.pending == 0) complete_later(job);
}

// As many runs as there are parts; the rest when they are done.
void Overlay::read_some(Job& job) {
  const DiskRequest& request = *job.request;
  while (job.issued < request.length && job.pending < job.parts.size()) {
    const std::uint64_t at = request.offset + job.issued;
    const std::uint64_t sector = at / kSector;
    const SectorMap::Run upper = map_.run(sector, (request.length - job.issued) / kSector);
    if (upper.set) {
      give(job, *upper_, DiskOp::Read, data_start_ + at, upper.count * kSector);
      continue;
    }
    const FrozenLayer::Run lower =
        lower_ ? lower_->run(sector, upper.count) : FrozenLayer::Run{false, upper.count, 0};
    const std::uint64_t length = lower.sectors * kSector;
    if (!lower.here) {
      give(job, *base_, DiskOp::Read, at, length);
    } else if (lower.offset != 0) {
      give(job, *lower_file_, DiskOp::Read, lower.offset, length);
    } else {
      job.take_buffers(length, [](const iovec& bytes) { std::memset(bytes.iov_base, 0, bytes.iov_len); });
      job.issued += length;
    }
  }
}

void Overlay::write_all(Job& job) {
  const DiskRequest& request = *job.request;
  // A hole reads as zeroes, and hides what is below as well as zeroes do.
  const DiskOp op = request.op == DiskOp::Write ? DiskOp::Write : DiskOp::WriteZeroes;
  give(job, *upper_, op, data_start_ + request.offset, request.length);
}

void Overlay::begin_flush() {
  if (!flushing_.empty() || flush_next_.empty()) return;
  flushing_.swap(flush_next_);
  flush_step_ = FlushStep::Data;
  // Writes that are done from now on may not be covered: their bits wait for the next flush.
  flushed_map_ = map_.take_changed();
  give(*flushing_.front(), *upper_, DiskOp::Flush, 0, 0);
}

// A flush of the file is done, for all that are flushing.
void Overlay::flush_step() {
  const int error = flushing_.front()->error;
  if (error != 0 || flush_step_ == FlushStep::Map || flushed_map_.empty()) return end_flush(error);
  flush_step_ = FlushStep::Map;
  if (!write_map(flushed_map_)) return end_flush(EIO);
  give(*flushing_.front(), *upper_, DiskOp::Flush, 0, 0);
}

void Overlay::end_flush(int error) {
  if (error != 0) map_.give_back(flushed_map_);  // it has changed still
  flushed_map_.clear();
  flushed_.swap(flushing_);
  for (Job* job : flushed_) {
    job->error = error;
    complete(*job);
  }
  flushed_.clear();
  begin_flush();
}

// Hands the next `length` bytes of the request to a layer.
void Overlay::give(Job& job, Disk& disk, DiskOp op, std::uint64_t offset, std::uint64_t length) {
  Part& part = job.parts[job.pending++];
  part.op = op;
  part.offset = offset;
  part.length = length;
  part.unmap = true;
  part.error = 0;
  part.buffers.clear();
  if (op == DiskOp::Read || op == DiskOp::Write) {
    job.take_buffers(length, [&part](const iovec& bytes) { part.buffers.push_back(bytes); });
  }
  job.issued += length;
  disk.submit(part);
}

void Overlay::part_done(Part& part) {
  Job& job = *part.job;
  if (part.error != 0 && job.error == 0) job.error = part.error;
  if (--job.pending > 0) return;
  DiskRequest& request = *job.request;
  bool done = true;
  switch (job.step) {
    case Job::Step::Reading:
      done = job.issued == request.length;
      break;
    case Job::Step::Writing:
      if (job.error == 0) map_.set(request.offset / kSector, request.length / kSector);
      done = !request.sync || map_start_ == 0;
      job.step = Job::Step::Flushing;
      break;
    case Job::Step::Flushing:
      flush_step();
      return;
  }
  if (done || job.error != 0) {
    complete(job);
  } else {
    go_on(job);
  }
}

// For what needs no layer: done() is never called in submit().
void Overlay::complete_later(Job& job) {
  finished_.push_back(&job);
  if (std::exchange(posted_, true)) return;
  loop_->post([this] {
    posted_ = false;
    completing_.swap(finished_);
    for (Job* each : completing_) complete(*each);
    completing_.clear();
    kick();
    if (batch_done_) batch_done_();
  });
}

void Overlay::complete(Job& job) {
  DiskRequest& request = *job.request;
  request.error = job.error;
  reserved_ -= std::exchange(job.reserved, 0);
  free_.push_back(&job);
  request.done(request);
}

// Memory is counted where it is used, in pages: what is there already can be written again. What is in flight
// may be used at any moment, so it counts too.
bool Overlay::reserve_room(Job& job) {
  const DiskRequest& request = *job.request;
  if (!limit_ || request.op != DiskOp::Write) return true;
  const std::uint64_t end = request.offset + request.length;
  const off_t hole = ::lseek(upper_->fd(), static_cast<off_t>(request.offset), SEEK_HOLE);
  if (hole >= static_cast<off_t>(end)) return true;
  struct stat info = {};
  if (::fstat(upper_->fd(), &info) != 0) return false;
  const std::uint64_t first = request.offset / kMemoryPage * kMemoryPage;
  const std::uint64_t wanted = (end - first + kMemoryPage - 1) / kMemoryPage * kMemoryPage;
  const std::uint64_t used = static_cast<std::uint64_t>(info.st_blocks) * 512 + reserved_;
  if (wanted > *limit_ || used > *limit_ - wanted) return false;
  reserved_ += job.reserved = wanted;
  return true;
}

Status Overlay::save(int out, const std::string& name, const std::stop_token& cancel) const {
  std::vector<FrozenLayer::Source> sources;
  const std::uint64_t sectors = size_ / kSector;
  for (std::uint64_t at = 0; at < sectors;) {
    const SectorMap::Run run = map_.run(at, sectors - at);
    if (run.set) {
      append_sources(at, run.count, sources);
      at += run.count;
      continue;
    }
    for (const std::uint64_t end = at + run.count; at < end;) {
      const FrozenLayer::Run lower =
          lower_ ? lower_->run(at, end - at) : FrozenLayer::Run{false, end - at, 0};
      if (lower.here) {
        const bool zeroes = lower.offset == 0;
        sources.push_back({{at, lower.sectors, 0}, zeroes ? -1 : lower_->fd(), lower.offset});
      }
      at += lower.sectors;
    }
  }
  return FrozenLayer::write(out, name, size_, sources, cancel);
}

// Sectors that the upper layer has: its holes are zeroes.
void Overlay::append_sources(std::uint64_t first, std::uint64_t count,
                             std::vector<FrozenLayer::Source>& sources) const {
  const int fd = upper_->fd();
  const std::uint64_t end = data_start_ + (first + count) * kSector;
  for (std::uint64_t at = data_start_ + first * kSector; at < end;) {
    off_t found = ::lseek(fd, static_cast<off_t>(at), SEEK_DATA);
    const auto data = std::min(found < 0 ? end : static_cast<std::uint64_t>(found), end);
    if (data > at) sources.push_back({{(at - data_start_) / kSector, (data - at) / kSector, 0}, -1, 0});
    if (data == end) break;
    found = ::lseek(fd, static_cast<off_t>(data), SEEK_HOLE);
    at = std::min(found < 0 ? end : static_cast<std::uint64_t>(found), end);
    sources.push_back({{(data - data_start_) / kSector, (at - data) / kSector, 0}, fd, data});
  }
}

}  // namespace vmmd::devices
