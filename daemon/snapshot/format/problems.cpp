#include "daemon/snapshot/format/problems.h"

#include "base/printable.h"

namespace vmmd::snapshot {

void Problems::keep(std::string message) {
  if (messages_.size() < kLimit) {
    messages_.push_back(std::move(message));
    return;
  }
  ++dropped_;
  messages_.back() = fmt::format("and {} more problems", dropped_ + 1);
}

std::string shown(std::string_view text) {
  constexpr std::size_t kShown = 64;  // bytes
  const bool cut = text.size() > kShown;
  std::size_t end = cut ? kShown : text.size();
  // Never in the middle of a UTF-8 sequence: messages become JSON.
  while (cut && end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  std::string result = printable(text.substr(0, end));
  if (cut) result += "...";
  return result;
}

Status Problems::to_status(ErrorCode code, std::string headline) const {
  if (empty()) return {};
  Error error{code, {std::move(headline)}};
  error.messages.insert(error.messages.end(), messages_.begin(), messages_.end());
  error.side_by_side = messages_.size();
  return tl::make_unexpected(std::move(error));
}

}  // namespace vmmd::snapshot
