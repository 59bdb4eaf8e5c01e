#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "api/endpoints.h"
#include "api/passed_fds.h"
#include "base/result.h"

// What vmm-remote can do, one row per command. Parsing, help, completion and the shell all read the same
// table.
namespace vmmd::remote {

class Session;
struct Globals;

/// One argument of a command, as the user gives it. In the order in which tables are read, not packed.
struct Argument {  // NOLINT(clang-analyzer-optin.performance.Padding)
  enum class Kind : std::uint8_t {
    Positional,  // one value, by place
    Words,       // all values that are left, by place
    Option,      // --name VALUE
    Repeated,    // --name VALUE, any number of times
    Flag,        // --name
  };
  std::string_view name;  // "path", "--mode"; what Arguments knows it by
  Kind kind = Kind::Positional;
  std::string_view help;
  bool required = false;
  /// "auto|copy|link" where only these are allowed (in any case); else what stands in the help for the value,
  /// in capitals: "FILE" and "DIR" are completed as such.
  std::string_view value = {};

  [[nodiscard]] bool is_choice() const { return value.find('|') != std::string_view::npos; }
};

/// What the user gave. A flag that was given has the value "true".
class Arguments {
 public:
  void add(std::string_view name, std::string value) { values_[name].push_back(std::move(value)); }

  [[nodiscard]] bool has(std::string_view name) const { return values_.contains(name); }
  /// The last value, if any.
  [[nodiscard]] std::optional<std::string> find(std::string_view name) const;
  /// The last value; empty if none.
  [[nodiscard]] std::string get(std::string_view name) const { return find(name).value_or(""); }
  [[nodiscard]] const std::vector<std::string>& all(std::string_view name) const;

 private:
  std::map<std::string_view, std::vector<std::string>> values_;  // keys are Argument::name
};

/// What a command sends.
struct RequestBody {
  RequestBody() = default;
  // From the text of most bodies, without more words.
  RequestBody(std::string text) : json(std::move(text)) {}  // NOLINT(google-explicit-constructor)
  RequestBody(std::string text, api::PassedFds passed) : json(std::move(text)), fds(std::move(passed)) {}

  std::string json;
  api::PassedFds fds;  // that go with it
};

struct Command {
  std::string_view name;  // "pause"; "snapshot list" for one word below another
  std::string_view summary;
  std::string_view example;  // one or more lines, without indentation
  std::span<const Argument> arguments = {};

  /// Of commands that are one request.
  std::string_view endpoint = {};
  api::Verb verb = api::Verb::Put;
  /// The request's body; nullptr for none.
  Result<RequestBody> (*body)(const Arguments&) = nullptr;
  /// What is more than sending one request and printing its answer. nullptr for just that.
  Status (*run)(Session&, const Command&, const Arguments&) = nullptr;
  /// Of commands that consist of commands, each of which reports for itself. The exit status.
  int (*program)(const Globals&) = nullptr;
  /// What is wrong with arguments that parsed, as a complaint about usage; empty if nothing is. nullptr for
  /// none.
  std::string (*check)(const Arguments&) = nullptr;
  bool needs_daemon = true;
};

/// In the order in which help shows them. Names are unique.
[[nodiscard]] std::span<const Command> commands();
/// nullptr for none.
[[nodiscard]] const Command* find_command(std::string_view name);
/// Is there a command of two words that starts with this one?
[[nodiscard]] bool has_subcommands(std::string_view name);

}  // namespace vmmd::remote
