#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "api/client.h"
#include "base/result.h"

namespace vmmd::remote {

struct Command;

/// What holds for all commands: options before or after the command, else the environment.
struct Globals {
  std::string api_socket;  // empty: none given
  bool json = false;
  bool quiet = false;                 // no progress bar
  std::optional<std::string> script;  // lines of the shell to run instead of a command
};

/// One run of one command: its way to the daemon and to the user.
///
/// For people, a command prints as it goes. With --json nothing but one object goes to standard output, when
/// the command has ended (report()); commands that stream are the exception and print objects, one per line.
class Session {
 public:
  explicit Session(Globals globals) : globals_(std::move(globals)) {}

  [[nodiscard]] const Globals& globals() const { return globals_; }
  [[nodiscard]] bool json() const { return globals_.json; }
  [[nodiscard]] api::Client client() const { return api::Client(globals_.api_socket); }
  /// Progress bars are for people at a terminal.
  [[nodiscard]] bool shows_progress() const;

  /// A line, or several, on standard output. With --json: nothing.
  void print(std::string_view text);
  /// As print(), also with --json: for streams.
  void stream(std::string_view line);
  /// False once the reader has gone.
  [[nodiscard]] bool output_works() const { return !broken_output_; }
  /// What the command found, as JSON. For people: nothing.
  void set_result(std::string json) { result_ = std::move(json); }
  /// Both: an answer that is JSON and is shown as it is.
  void answer(const std::string& json) {
    print(json);
    set_result(json);
  }

  /// Ends the command: with --json prints the object, else the chain of errors to standard error. The exit
  /// status, 0 or 1.
  int report(std::string_view command, const Status& outcome);

 private:
  void write(std::string_view text);

  Globals globals_;
  std::string result_;
  bool broken_output_ = false;
};

/// "Error: vmm-remote exited with the following chain of errors:\n  0: ...", as ch-remote.
[[nodiscard]] std::string error_chain(const Error& error);
/// {"ok":false,"command":"pause","error":{"code":405,"name":"WrongState","messages":[...]}}, with "result"
/// where there is one.
[[nodiscard]] std::string error_object(std::string_view command, const Error& error, std::string_view result);
/// {"ok":true,"command":"pause","result":null}
[[nodiscard]] std::string success_object(std::string_view command, std::string_view result);
/// A mistake in the command line.
[[nodiscard]] std::string usage_object(std::string_view command, std::string_view complaint);

}  // namespace vmmd::remote
