#pragma once

#include <string>

#include "base/result.h"
#include "remote/command.h"

// Bodies of requests from arguments in ch-remote's forms, and what is wrong with arguments before that.
namespace vmmd::remote {

Result<RequestBody> create_body(const Arguments& arguments);
Result<RequestBody> snapshot_body(const Arguments& arguments);
Result<RequestBody> restore_body(const Arguments& arguments);
Result<RequestBody> cancel_body(const Arguments& arguments);
Result<RequestBody> resize_body(const Arguments& arguments);
Result<RequestBody> resize_disk_body(const Arguments& arguments);
/// Of commands that no daemon of ours knows what to do with: it says so before it reads the body.
Result<RequestBody> unbuilt_body(const Arguments& arguments);

std::string check_snapshot(const Arguments& arguments);

/// "key=value".
Result<std::pair<std::string, std::string>> parse_label(const std::string& text);

/// The whole number that `text` is, without sign; nothing if it is not.
std::optional<std::uint64_t> parse_count(const std::string& text);

}  // namespace vmmd::remote
