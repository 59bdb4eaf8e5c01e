#include "remote/shell.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <iostream>

#include <fmt/format.h>

#include "api/options.h"
#include "remote/cli.h"
#include "remote/command.h"
#include "remote/line_editor.h"
#include "remote/table.h"

namespace vmmd::remote {

namespace {

constexpr int kUsage = 2;
using Words = std::vector<std::string>;
using Kind = ShellAction::Kind;

ShellAction refuse(std::string message) {
  return {Kind::Refuse, {}, std::move(message)};
}

ShellAction run(Words words) {
  return {Kind::Run, std::move(words), {}};
}

ShellAction save_snapshot(const Words& words) {
  if (words.size() != 2) return refuse("usage: save-snapshot DIR");
  auto directory = api::directory_from_user(words[1]);
  if (!directory) return refuse(directory.error().to_string());
  // OpenVMM's pauses the VM and leaves it paused.
  return run({"snapshot", std::move(*directory), "--pause"});
}

ShellAction shut_down(const Words& words) {
  if (words.size() == 1) return run({"power-button"});
  if (words.size() == 2 && (words[1] == "-f" || words[1] == "--force")) return run({"shutdown"});
  if (words.size() == 2 && (words[1] == "-r" || words[1] == "--reboot")) return run({"reboot"});
  return refuse("usage: shutdown [-f|-r]: asks the guest; -f stops the VM at once, -r resets it");
}

struct Verb {
  std::string_view name;
  std::string_view alias;
  std::string_view usage;
  std::string_view help;
  std::string_view command = {};                  // of ours, with the same arguments
  ShellAction (*action)(const Words&) = nullptr;  // where it is more than another name
};

constexpr std::array kVerbs = {
    Verb{"pause", "p", "", "Stop the vCPUs", "pause"},
    Verb{"resume", "r", "", "Let them go on", "resume"},
    Verb{"save-snapshot",
         "snap",
         "DIR",
         "Pause the VM and write a snapshot; resume goes on",
         {},
         save_snapshot},
    Verb{"restart", "R", "", "Reset the VM", "reboot"},
    Verb{"reset", "", "", "Reset the VM", "reboot"},
    Verb{"nmi", "n", "", "Send an NMI to the guest", "nmi"},
    Verb{"shutdown", "", "[-f|-r]", "Ask the guest to shut down; -f: stop it, -r: reset it", {}, shut_down},
    Verb{"input", "i", "TEXT", "Type a line into the serial port", "input"},
    Verb{"input-mode", "I", "", "Attach to the serial port until Ctrl-]", "console"},
    Verb{"inspect", "x", "", "Show state and configuration", "info"},
    Verb{"status", "", "", "Show the VM in a few lines", "status"},
};

/// OpenVMM's, which would need what is not built.
constexpr std::array<std::string_view, 25> kUnbuilt = {
    "dump-state",
    "dump",
    "pulse-save-restore",
    "psr",
    "schedule-pulse-save-restore",
    "spsr",
    "rm-disk",
    "D",
    "d",
    "vtl2-settings",
    "add-nvme-ns",
    "rm-nvme-ns",
    "restart-vnc",
    "V",
    "hvsock",
    "v",
    "clear-halt",
    "ch",
    "service-vtl2",
    "read-memory",
    "write-memory",
    "panic",
    "kvp",
    "bind-port",
    "unbind-port",
};

std::string help_text() {
  std::vector<std::vector<std::string>> rows;
  rows.reserve(kVerbs.size() + 2);
  for (const Verb& verb : kVerbs) {
    rows.push_back({fmt::format("  {}{}{}{}{}", verb.name, verb.alias.empty() ? "" : ", ", verb.alias,
                                verb.usage.empty() ? "" : " ", verb.usage),
                    std::string(verb.help)});
  }
  rows.push_back({"  quit, q", "Leave the shell; the VM stays as it is"});
  rows.push_back({"  help, h", "This; `COMMAND --help` for a command of vmm-remote"});
  std::string text = format_table(rows) + "Every command of vmm-remote works as well:";
  std::size_t column = 80;  // longer than a line: start with one
  for (const Command& command : commands()) {
    const bool below = command.name.find(' ') != std::string_view::npos;
    if (below || command.summary.starts_with("Not built")) continue;
    if (column + command.name.size() + 1 > 78) {
      text += "\n ";
      column = 1;
    }
    text += fmt::format(" {}", command.name);
    column += command.name.size() + 1;
  }
  return text + "\n";
}

/// Runs one line. `quit` is set when it says so.
int run_line(const Globals& globals, std::string_view line, bool& quit, bool stop_at_failure) {
  const auto parsed = split_shell_line(line);
  if (!parsed) {
    fmt::print(stderr, "{}\n", parsed.error().to_string());
    return kUsage;
  }
  int status = 0;
  for (const Words& words : *parsed) {
    const ShellAction action = resolve_shell_line(words);
    switch (action.kind) {
      case Kind::Run:
        status = run_words(action.words, globals);
        break;
      case Kind::Quit:
        quit = true;
        return status;
      case Kind::Help:
        fmt::print("{}", help_text());
        status = 0;
        break;
      case Kind::Refuse:
        fmt::print(stderr, "{}\n", action.message);
        status = kUsage;
        break;
    }
    if (status != 0 && stop_at_failure) return status;
  }
  return status;
}

/// As run_line(), in a process of its own: Ctrl-C ends the command and not the shell.
void run_line_apart(const Globals& globals, std::string_view line, bool& quit) {
  // Only what does not run anything may change the shell itself.
  const auto parsed = split_shell_line(line);
  if (parsed && parsed->size() == 1 && resolve_shell_line(parsed->front()).kind != Kind::Run) {
    run_line(globals, line, quit, true);
    return;
  }
  std::fflush(nullptr);
  struct sigaction ignore = {};
  struct sigaction before = {};
  ignore.sa_handler = SIG_IGN;
  sigaction(SIGINT, &ignore, &before);
  const pid_t child = ::fork();
  if (child == 0) {
    sigaction(SIGINT, &before, nullptr);
    bool child_quit = false;
    const int status = run_line(globals, line, child_quit, true);
    std::fflush(nullptr);
    ::_exit(status);
  }
  if (child < 0) {
    fmt::print(stderr, "cannot start a process for the command\n");
  } else {
    while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
  sigaction(SIGINT, &before, nullptr);
}

std::vector<std::string> first_words() {
  std::vector<std::string> words = {"quit", "help"};
  for (const Verb& verb : kVerbs) words.emplace_back(verb.name);
  for (const Command& command : commands()) {
    if (command.name.find(' ') == std::string_view::npos) words.emplace_back(command.name);
  }
  std::ranges::sort(words);
  const auto repeated = std::ranges::unique(words);
  words.erase(repeated.begin(), repeated.end());
  return words;
}

}  // namespace

Result<std::vector<Words>> split_shell_line(std::string_view text) {
  std::vector<Words> lines(1);
  std::string word;
  bool in_word = false;
  const auto end_word = [&] {
    if (in_word) lines.back().push_back(std::move(word));
    word.clear();
    in_word = false;
  };
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\'' || c == '"') {
      in_word = true;
      for (++i; i < text.size() && text[i] != c; ++i) {
        if (c == '"' && text[i] == '\\' && i + 1 < text.size() && (text[i + 1] == '"' || text[i + 1] == '\\'))
          ++i;
        word += text[i];
      }
      if (i == text.size()) return fail(ErrorCode::BadRequest, "a {} is never closed", c);
    } else if (c == '\\' && i + 1 < text.size()) {
      in_word = true;
      word += text[++i];
    } else if (c == ' ' || c == '\t' || c == '\r') {
      end_word();
    } else if (c == ';' || c == '\n') {
      end_word();
      lines.emplace_back();
    } else if (c == '#' && !in_word) {
      while (i + 1 < text.size() && text[i + 1] != '\n') ++i;
    } else {
      in_word = true;
      word += c;
    }
  }
  end_word();
  std::erase_if(lines, [](const Words& line) { return line.empty(); });
  return lines;
}

ShellAction resolve_shell_line(const Words& words) {
  const std::string& first = words.front();
  if (first == "quit" || first == "q" || first == "exit") return {Kind::Quit, {}, {}};
  if (first == "help" || first == "h" || first == "?") {
    if (words.size() == 1) return {Kind::Help, {}, {}};
    Words help(words.begin() + 1, words.end());
    help.emplace_back("--help");
    return run(std::move(help));
  }
  const bool wants_help = std::ranges::find(words, "--help") != words.end();
  for (const Verb& verb : kVerbs) {
    if (first != verb.name && (verb.alias.empty() || first != verb.alias)) continue;
    if (verb.action != nullptr) {
      if (wants_help) return refuse(fmt::format("{} {}: {}", verb.name, verb.usage, verb.help));
      return verb.action(words);
    }
    Words ours(words);
    ours.front() = std::string(verb.command);
    return run(std::move(ours));
  }
  if (std::ranges::find(kUnbuilt, first) != kUnbuilt.end()) {
    return refuse(fmt::format("OpenVMM's {} is not built here; see docs/from-openvmm.md", first));
  }
  if (first == "shell") return refuse("this is the shell");
  return run(words);
}

int run_script(const Globals& globals, std::string_view text) {
  bool quit = false;
  return run_line(globals, text, quit, true);
}

int run_shell(const Globals& globals) {
  bool quit = false;
  if (::isatty(STDIN_FILENO) == 0) {
    int status = 0;
    std::string line;
    while (!quit && std::getline(std::cin, line)) {
      if (const int failed = run_line(globals, line, quit, false); failed != 0) status = failed;
    }
    return status;
  }
  fmt::print("vmm-remote {}: help shows the commands, quit leaves.\n", globals.api_socket);
  LineEditor editor("vmmd> ", history_path(), first_words);
  while (!quit) {
    const auto line = editor.read();
    if (!line) {
      fmt::print("\n");
      break;
    }
    if (!line->empty()) run_line_apart(globals, *line, quit);
  }
  return 0;
}

}  // namespace vmmd::remote
