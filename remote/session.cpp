#include "remote/session.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <iterator>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/printable.h"

namespace vmmd::remote {

using nlohmann::ordered_json;

namespace {

std::string_view code_name(ErrorCode code) {
  switch (code) {
    case ErrorCode::BadRequest:
      return "BadRequest";
    case ErrorCode::NotFound:
      return "NotFound";
    case ErrorCode::WrongState:
      return "WrongState";
    case ErrorCode::Conflict:
      return "Conflict";
    case ErrorCode::TooLarge:
      return "TooLarge";
    case ErrorCode::TooMany:
      return "TooMany";
    case ErrorCode::Internal:
      return "Internal";
    case ErrorCode::NotSupported:
      return "NotSupported";
  }
  return "Other";  // of a server that knows more codes
}

std::string text_of(const ordered_json& object) {
  return object.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

ordered_json result_of(std::string_view text) {
  if (text.empty()) return nullptr;
  auto parsed = ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
  // Another server's answer need not be JSON.
  return parsed.is_discarded() ? ordered_json(std::string(text)) : parsed;
}

}  // namespace

std::string error_chain(const Error& error) {
  std::string text = "Error: vmm-remote exited with the following chain of errors:\n";
  for (std::size_t i = 0; i < error.messages.size(); ++i) {
    // A message of several lines stays under its number.
    std::string message = printable(error.messages[i], Lines::Many);
    for (auto end = message.find('\n'); end != std::string::npos; end = message.find('\n', end + 1)) {
      message.insert(end + 1, "     ");
    }
    fmt::format_to(std::back_inserter(text), "  {}: {}\n", i, message);
  }
  return text;
}

std::string error_object(std::string_view command, const Error& error, std::string_view result) {
  ordered_json object;
  object["ok"] = false;
  object["command"] = command;
  object["error"]["code"] = static_cast<unsigned>(error.code);
  object["error"]["name"] = code_name(error.code);
  object["error"]["messages"] = error.messages;
  if (!result.empty()) object["result"] = result_of(result);
  return text_of(object);
}

std::string success_object(std::string_view command, std::string_view result) {
  ordered_json object;
  object["ok"] = true;
  object["command"] = command;
  object["result"] = result_of(result);
  return text_of(object);
}

std::string usage_object(std::string_view command, std::string_view complaint) {
  ordered_json object;
  object["ok"] = false;
  object["command"] = command;
  object["error"]["code"] = 0;
  object["error"]["name"] = "Usage";
  object["error"]["messages"] = {complaint};
  return text_of(object);
}

bool Session::shows_progress() const {
  return !globals_.json && !globals_.quiet && ::isatty(STDERR_FILENO) != 0;
}

void Session::write(std::string_view text) {
  const bool ends = text.ends_with('\n');
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) broken_output_ = true;
  if (!ends && std::fputc('\n', stdout) == EOF) broken_output_ = true;
}

void Session::print(std::string_view text) {
  if (!globals_.json && !text.empty()) write(printable(text, Lines::Many));
}

void Session::stream(std::string_view line) {
  write(printable(line, Lines::Many));
  // A reader of a pipe wants each line when it is there.
  if (std::fflush(stdout) != 0) broken_output_ = true;
}

int Session::report(std::string_view command, const Status& outcome) {
  if (globals_.json) {
    write(outcome ? success_object(command, result_) : error_object(command, outcome.error(), result_));
  } else if (!outcome) {
    std::fflush(stdout);  // what was found comes before why it is an error
    std::fputs(error_chain(outcome.error()).c_str(), stderr);
  }
  errno = 0;
  if (std::fflush(stdout) != 0 || broken_output_) {
    fmt::print(stderr, "vmm-remote: cannot write to standard output: {}\n", std::strerror(errno));
    return 1;
  }
  return outcome ? 0 : 1;
}

}  // namespace vmmd::remote
