#include "remote/cli.h"

#include <signal.h>

#include <cstdio>
#include <cstdlib>
#include <list>
#include <map>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "api/edit_distance.h"
#include "base/version.h"
#include "remote/command.h"
#include "remote/shell.h"

namespace vmmd::remote {

namespace {

constexpr const char* kName = "vmm-remote";
constexpr int kUsage = 2;

constexpr const char* kFooter = R"(
Exit status: 0 done, 1 the command failed, 2 the command line is wrong.
`vmm-remote COMMAND --help` shows a command's arguments and an example.

Examples:
  export VMMD_SOCKET=/run/vm.sock
  vmm-remote create vm.json && vmm-remote boot
  vmm-remote snapshot --pause --resume file:///snapshots/one
  vmm-remote snapshot list /snapshots)";

using Kind = Argument::Kind;

std::vector<std::string> choices_of(const Argument& argument) {
  std::vector<std::string> choices;
  std::string_view rest = argument.value;
  while (!rest.empty()) {
    const auto bar = rest.find('|');
    choices.emplace_back(rest.substr(0, bar));
    rest = bar == std::string_view::npos ? std::string_view() : rest.substr(bar + 1);
  }
  return choices;
}

/// The commands as CLI11 wants them, and where it puts what it reads.
class Parser {
 public:
  Parser() : app_("Drive a VM of vmmd through its API, and look after snapshots", kName) {
    app_.footer(kFooter);
    app_.set_version_flag("-V,--version", std::string(kBuild));
    app_.add_option("--api-socket", globals_.api_socket, "The daemon's API socket (or set VMMD_SOCKET)")
        ->option_text("PATH");
    app_.add_flag("--json", globals_.json, "Print one JSON object, for scripts");
    app_.add_flag("-q,--quiet", globals_.quiet, "Show no progress");
    app_.add_option("-c", globals_.script, "Run lines of the shell (see `shell --help`) instead of a command")
        ->option_text("LINES");
    app_.require_subcommand(0, 1);
    for (const Command& command : commands()) add(command);
  }

  /// Throws CLI::ParseError.
  void parse(const std::vector<std::string>& words) {
    std::vector<std::string> reversed(words.rbegin(), words.rend());
    app_.parse(std::move(reversed));
  }

  int exit(const CLI::ParseError& error) { return app_.exit(error); }

  /// The command that was named, most specific first.
  [[nodiscard]] const Command* chosen() const {
    const Command* found = nullptr;
    for (const auto& [command, entry] : entries_) {
      if (!entry.app->parsed()) continue;
      if (found == nullptr || command->name.size() > found->name.size()) found = command;
    }
    return found;
  }

  [[nodiscard]] Arguments arguments(const Command& command) const {
    Arguments arguments;
    for (const auto& [argument, value] : entries_.at(&command).values) {
      if (argument->kind == Kind::Flag) {
        if (value.flag) arguments.add(argument->name, "true");
      } else {
        for (const std::string& text : value.texts) arguments.add(argument->name, text);
      }
    }
    return arguments;
  }

  /// What stands behind a word below (`snapshot list DIR`), but fits only the word above: CLI11 gives it
  /// there.
  [[nodiscard]] std::string misplaced(const Command& chosen) const {
    for (const auto& [command, entry] : entries_) {
      if (command == &chosen || !entry.app->parsed()) continue;
      for (const auto& [argument, value] : entry.values) {
        if (!value.texts.empty()) return value.texts.front();
        if (value.flag) return std::string(argument->name);
      }
    }
    return {};
  }

  [[nodiscard]] const Globals& globals() const { return globals_; }

 private:
  struct Value {
    std::vector<std::string> texts;
    bool flag = false;
  };
  struct Entry {
    CLI::App* app = nullptr;
    std::list<std::pair<const Argument*, Value>> values;  // a list: CLI11 keeps their addresses
  };

  CLI::App* parent_of(std::string_view name, std::string& last) {
    const auto space = name.find(' ');
    last = std::string(name.substr(space == std::string_view::npos ? 0 : space + 1));
    return space == std::string_view::npos ? &app_ : app_.get_subcommand(std::string(name.substr(0, space)));
  }

  void add(const Command& command) {
    std::string last;
    CLI::App* parent = parent_of(command.name, last);
    Entry& entry = entries_[&command];
    entry.app = parent->add_subcommand(last, std::string(command.summary));
    entry.app->fallthrough();  // --json and --api-socket may come last
    std::string footer = "\nExample:\n";
    std::string_view rest = command.example;
    while (!rest.empty()) {
      const auto end = rest.find('\n');
      footer += fmt::format("  {}\n", rest.substr(0, end));
      rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + 1);
    }
    footer.pop_back();
    entry.app->footer(footer);
    for (const Argument& argument : command.arguments) add(entry, argument);
  }

  static void add(Entry& entry, const Argument& argument) {
    Value& value = entry.values.emplace_back(&argument, Value()).second;
    const std::string name(argument.name);
    if (argument.kind == Kind::Flag) {
      entry.app->add_flag(name, value.flag, std::string(argument.help));
      return;
    }
    CLI::Option* option = entry.app->add_option(name, value.texts, std::string(argument.help));
    // One value each time, else an option would swallow what stands by place behind it.
    if (argument.kind != Kind::Words) option->allow_extra_args(false);
    if (argument.kind == Kind::Positional || argument.kind == Kind::Option) option->expected(1);
    // Not CLI11's own "required": a word below this one (`snapshot list`) does without.
    if (argument.is_choice()) option->check(CLI::IsMember(choices_of(argument), CLI::ignore_case));
    option->option_text(argument.value.empty() ? " " : std::string(argument.value));
  }

  CLI::App app_;
  Globals globals_;
  std::map<const Command*, Entry> entries_;
};

/// What CLI11 was not asked to check; empty if nothing is wrong.
std::string complaint(const Command& command, const Arguments& arguments, const Globals& globals) {
  for (const Argument& argument : command.arguments) {
    if (argument.required && !arguments.has(argument.name)) {
      return fmt::format("{} is required", argument.name);
    }
  }
  if (command.check != nullptr) {
    if (std::string text = command.check(arguments); !text.empty()) return text;
  }
  if (command.needs_daemon && globals.api_socket.empty()) {
    return "no daemon: give --api-socket PATH or set VMMD_SOCKET";
  }
  return {};
}

int refuse(std::string_view command, std::string_view text, bool json) {
  if (json) {
    fmt::print("{}\n", usage_object(command, text));
  } else {
    fmt::print(stderr, "{}{}{}: {}\nRun with --help for more information.\n", kName,
               command.empty() ? "" : " ", command, text);
  }
  return kUsage;
}

/// The first word that should name a command.
std::string_view command_word(const std::vector<std::string>& words) {
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (words[i] == "--api-socket") {
      ++i;
    } else if (!words[i].starts_with('-')) {
      return words[i];
    }
  }
  return {};
}

/// CLI11's complaint, or a better one where we know more.
int refuse_parse(const Parser& parser, const std::vector<std::string>& words, std::string text, bool json) {
  const Command* command = parser.chosen();
  if (command == nullptr) {
    const std::string_view word = command_word(words);
    if (word.empty() || find_command(word) != nullptr) return refuse("", text, json);
    std::vector<std::string_view> names;
    for (const Command& known : commands()) names.push_back(known.name);
    const std::string_view near = api::closest(word, names);
    return refuse("",
                  fmt::format("there is no command \"{}\"{}", word,
                              near.empty() ? "" : fmt::format("; did you mean {}?", near)),
                  json);
  }
  if (command->check != nullptr) {
    if (std::string better = command->check(parser.arguments(*command)); !better.empty()) text = better;
  }
  return refuse(command->name, text, json);
}

Status run_request(Session& session, const Command& command, const Arguments& arguments) {
  RequestBody body;
  if (command.body != nullptr) {
    VMMD_ASSIGN(body, command.body(arguments));
  }
  VMMD_ASSIGN(const api::Response response,
              session.client().request(command.verb, command.endpoint, body.json, body.fds));
  session.answer(response.body);
  return {};
}

}  // namespace

int run_words(const std::vector<std::string>& words, const Globals& defaults) {
  Parser parser;
  const bool json = defaults.json || std::find(words.begin(), words.end(), "--json") != words.end();
  try {
    parser.parse(words);
  } catch (const CLI::Success& help) {
    return parser.exit(help);
  } catch (const CLI::ParseError& error) {
    return refuse_parse(parser, words, error.what(), json);
  }
  Globals globals = parser.globals();
  if (globals.api_socket.empty()) globals.api_socket = defaults.api_socket;
  globals.json = globals.json || defaults.json;
  globals.quiet = globals.quiet || defaults.quiet;
  const Command* chosen = parser.chosen();
  if (globals.script && (chosen == nullptr || chosen->program != nullptr)) {
    return run_script(globals, *globals.script);
  }
  if (chosen == nullptr) return refuse("", "no command given", json);
  const Command& command = *chosen;
  if (globals.script)
    return refuse(command.name, "-c runs lines of the shell, not together with a command", json);
  if (const std::string extra = parser.misplaced(command); !extra.empty()) {
    return refuse(command.name, fmt::format("unexpected argument \"{}\"", extra), json);
  }
  const Arguments arguments = parser.arguments(command);
  if (std::string text = complaint(command, arguments, globals); !text.empty()) {
    return refuse(command.name, text, json);
  }
  if (command.program != nullptr) return command.program(globals);
  Session session(globals);
  const Status outcome = command.run != nullptr ? command.run(session, command, arguments)
                                                : run_request(session, command, arguments);
  return session.report(command.name, outcome);
}

int run_program(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);
  Globals defaults;
  if (const char* socket = std::getenv("VMMD_SOCKET")) defaults.api_socket = socket;
  return run_words(std::vector<std::string>(argv + 1, argv + argc), defaults);
}

}  // namespace vmmd::remote
