// GET /api/v1/events: Server-Sent Events on a socket that a connection gave up. Events come on any thread
// into a bounded inbox; the API thread writes them out, one write at a time.

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <boost/asio/buffer.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/http/chunk_encode.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/message.hpp>
#include <boost/beast/http/serializer.hpp>
#include <boost/beast/http/write.hpp>
#include <fmt/format.h>

#include "api/server_core.h"

namespace vmmd::api {

namespace {

namespace http = boost::beast::http;
using ErrorCodeOfBoost = boost::system::error_code;

/// Events in one write: bounds the text in flight, not the throughput.
constexpr std::size_t kBatch = 64;

/// What publishers fill and the API thread empties. Lock order: EventBus, Inbox, Mailbox.
struct Inbox {
  std::mutex mutex;
  std::vector<EventLine> lines;
  bool overflow = false;  // lines were lost; the stream must end
  bool wake = false;      // the stream waits for the next line
};

class EventStream final : public Session {
 public:
  using Session::Session;

  void start(std::optional<std::uint64_t> since, bool chunked);
  void stop() override;

 private:
  void subscribe(std::optional<std::uint64_t> since);
  void watch_for_hangup();
  void pump();
  [[nodiscard]] bool collect();
  void end(std::string_view why);
  void write(std::string text);
  void write_last_chunk();
  void written(const ErrorCodeOfBoost& error);
  std::shared_ptr<EventStream> self() { return std::static_pointer_cast<EventStream>(shared_from_this()); }

  enum class Phase : std::uint8_t { Open, Comment, LastChunk, Done };  // what is due next

  Phase phase_ = Phase::Open;
  bool chunked_ = true;
  bool writing_ = false;
  std::string preface_;             // comments in front of the first event
  std::string closing_;             // comment behind the last
  std::vector<EventLine> pending_;  // taken from the inbox; from next_ on not yet written
  std::size_t next_ = 0;
  std::string text_;  // in flight
  http::response<http::empty_body> head_;
  std::optional<http::response_serializer<http::empty_body>> head_writer_;
  std::shared_ptr<Inbox> inbox_ = std::make_shared<Inbox>();
  std::shared_ptr<void> subscription_;
};

void EventStream::start(std::optional<std::uint64_t> since, bool chunked) {
  chunked_ = chunked;
  head_.version(chunked ? 11 : 10);
  head_.result(http::status::ok);
  head_.set(http::field::server, kServerName);
  head_.set(http::field::content_type, "text/event-stream");
  head_.set(http::field::cache_control, "no-store");
  head_.keep_alive(false);
  if (chunked) head_.chunked(true);
  head_writer_.emplace(head_);

  subscribe(since);
  watch_for_hangup();
  writing_ = true;
  http::async_write_header(
      socket_, *head_writer_,
      [self = self()](const ErrorCodeOfBoost& error, std::size_t) { self->written(error); });
}

void EventStream::subscribe(std::optional<std::uint64_t> since) {
  const std::weak_ptr<EventStream> weak = self();
  auto listener = [weak, inbox = inbox_, mailbox = core_.mailbox, limit = core_.limits.stream_events](
                      const std::shared_ptr<const std::string>& line, std::uint64_t sequence) {
    const std::scoped_lock lock(inbox->mutex);
    if (inbox->overflow) return;
    if (inbox->lines.size() < limit) {
      inbox->lines.push_back({sequence, line});
    } else {
      inbox->overflow = true;
      inbox->lines.clear();
    }
    if (!inbox->wake && !inbox->overflow) return;
    inbox->wake = false;
    mailbox->post([weak] {
      if (const auto stream = weak.lock()) stream->pump();
    });
  };
  auto resumed = core_.events.subscribe_since(since, std::move(listener));
  subscription_ = std::move(resumed.handle);
  pending_ = std::move(resumed.missed);
  preface_ = fmt::format(": the latest event is {}\n\n", resumed.last);
  if (since && !pending_.empty() && pending_.front().sequence > *since + 1) {
    preface_ += fmt::format(": events before {} are forgotten\n\n", pending_.front().sequence);
  }
}

/// Nothing is read from the client any more, so only the kernel can say that it has gone.
void EventStream::watch_for_hangup() {
  socket_.async_wait(asio::socket_base::wait_error, [self = self()](const ErrorCodeOfBoost& error) {
    if (!error && self->socket_.is_open()) self->leave();
  });
}

void EventStream::pump() {
  if (!socket_.is_open()) return;
  if (collect() && phase_ == Phase::Open) end("the reader was too slow; resume with Last-Event-ID");
  if (writing_) return;

  std::string text = std::exchange(preface_, {});
  if (phase_ == Phase::Open) {
    for (std::size_t i = 0; i < kBatch && next_ < pending_.size(); ++i) {
      const EventLine& line = pending_[next_++];
      fmt::format_to(std::back_inserter(text), "id: {}\ndata: {}\n\n", line.sequence, *line.json);
    }
    if (!text.empty()) write(std::move(text));
    return;
  }
  switch (std::exchange(phase_, phase_ == Phase::Comment && chunked_ ? Phase::LastChunk : Phase::Done)) {
    case Phase::Comment:
      return write(std::move(text) + closing_);
    case Phase::LastChunk:
      return write_last_chunk();
    default:
      return leave();
  }
}

/// Takes what has come in, if all that came before is written. True: events were lost.
bool EventStream::collect() {
  const std::scoped_lock lock(inbox_->mutex);
  if (!writing_ && next_ == pending_.size()) {
    pending_.clear();
    next_ = 0;
    pending_.swap(inbox_->lines);
    inbox_->wake = pending_.empty();
  }
  return inbox_->overflow;
}

/// Lets the write in progress end, then says why this was all. Bounded in time, as the reader may have
/// stopped reading altogether.
void EventStream::end(std::string_view why) {
  phase_ = Phase::Comment;
  closing_ = fmt::format(": the stream ends: {}\n\n", why);
  subscription_.reset();
  arm(core_.limits.transfer);
}

void EventStream::write(std::string text) {
  writing_ = true;
  text_ = std::move(text);
  auto written = [self = self()](const ErrorCodeOfBoost& error, std::size_t) { self->written(error); };
  if (chunked_) {
    asio::async_write(socket_, http::make_chunk(asio::buffer(text_)), std::move(written));
  } else {
    asio::async_write(socket_, asio::buffer(text_), std::move(written));
  }
}

void EventStream::write_last_chunk() {
  writing_ = true;
  asio::async_write(socket_, http::make_chunk_last(),
                    [self = self()](const ErrorCodeOfBoost& error, std::size_t) { self->written(error); });
}

void EventStream::written(const ErrorCodeOfBoost& error) {
  writing_ = false;
  if (!socket_.is_open()) return;
  if (error) return leave();
  pump();
}

void EventStream::stop() {
  if (phase_ == Phase::Open) end("the daemon stops");
  pump();
}

}  // namespace

std::shared_ptr<Session> make_event_stream(ApiServer::Core& core, asio::local::stream_protocol::socket socket,
                                           std::optional<std::uint64_t> since, bool chunked) {
  auto stream = std::make_shared<EventStream>(core, std::move(socket));
  stream->start(since, chunked);
  return stream;
}

}  // namespace vmmd::api
