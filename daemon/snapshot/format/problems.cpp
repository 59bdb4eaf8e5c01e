#include "daemon/snapshot/format/problems.h"

namespace vmmd::snapshot {

Status Problems::to_status(ErrorCode code, std::string headline) const {
  if (empty()) return {};
  Error error{code, {std::move(headline)}};
  error.messages.insert(error.messages.end(), messages_.begin(), messages_.end());
  return tl::make_unexpected(std::move(error));
}

}  // namespace vmmd::snapshot
