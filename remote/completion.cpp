#include "remote/completion.h"

#include <algorithm>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "remote/session.h"

namespace vmmd::remote {

namespace {

using Kind = Argument::Kind;

constexpr std::string_view kGlobals = "--api-socket --json --quiet --help";

bool is_option(const Argument& argument) {
  return argument.name.starts_with('-');
}

std::string choices(const Argument& argument) {
  std::string text(argument.value);
  std::ranges::replace(text, '|', ' ');
  return text;
}

/// Words directly below `parent`; all first words for "".
std::vector<const Command*> below(std::string_view parent) {
  std::vector<const Command*> found;
  for (const Command& command : commands()) {
    const auto space = command.name.rfind(' ');
    const std::string_view above = space == std::string_view::npos ? "" : command.name.substr(0, space);
    if (above == parent) found.push_back(&command);
  }
  return found;
}

std::string_view last_word(const Command& command) {
  return command.name.substr(command.name.rfind(' ') + 1);  // npos + 1 is 0
}

std::string names_below(std::string_view parent) {
  std::string text;
  for (const Command* command : below(parent)) {
    if (!text.empty()) text += ' ';
    text += last_word(*command);
  }
  return text;
}

/// Inside '…' of sh, and of zsh's and fish's.
std::string quoted(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\'') {
      out += "'\\''";
    } else {
      out += c;
    }
  }
  return out;
}

/// What bash offers for the value of an argument; empty for nothing.
std::string bash_values(const Argument& argument) {
  if (argument.is_choice())
    return fmt::format("COMPREPLY=($(compgen -W '{}' -- \"$cur\"))", choices(argument));
  if (argument.value == "FILE") return "COMPREPLY=($(compgen -f -- \"$cur\"))";
  if (argument.value == "DIR") return "COMPREPLY=($(compgen -d -- \"$cur\"))";
  return {};
}

std::string fish_values(const Argument& argument) {
  if (argument.is_choice()) return fmt::format(" -x -a '{}'", choices(argument));
  if (argument.value == "FILE") return " -r -F";
  if (argument.value == "DIR") return " -x -a '(__fish_complete_directories)'";
  return argument.kind == Kind::Flag ? "" : " -x";
}

std::string zsh_values(const Argument& argument) {
  if (argument.is_choice()) return fmt::format("({})", choices(argument));
  if (argument.value == "FILE") return "_files";
  if (argument.value == "DIR") return "_files -/";
  return " ";
}

/// In zsh's 'spec[help]:message:action' these mean something.
std::string zsh_help(std::string_view text) {
  std::string out;
  for (const char c : quoted(text)) {
    if (c == '[' || c == ']' || c == ':') out += '\\';
    out += c;
  }
  return out;
}

std::string zsh_arguments(const Command& command) {
  std::string text = "_arguments";
  for (const Argument& argument : command.arguments) {
    const std::string help = zsh_help(argument.help);
    if (argument.kind == Kind::Flag) {
      text += fmt::format(" '{}[{}]'", argument.name, help);
    } else if (is_option(argument)) {
      text += fmt::format(" '{}{}[{}]:{}:{}'", argument.kind == Kind::Repeated ? "*" : "", argument.name,
                          help, argument.name.substr(2), zsh_values(argument));
    } else {
      text += fmt::format(" '{}:{}:{}'", argument.kind == Kind::Words ? "*" : "1", argument.name,
                          zsh_values(argument));
    }
  }
  return text + " $globals";
}

}  // namespace

std::string bash_completion() {
  std::string text = R"(# bash completion for vmm-remote:  source <(vmm-remote completion bash)
_vmm_remote() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command= word i
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=${COMP_WORDS[i]}
    case $word in
      --api-socket) ((i++)) ;;
      -*) ;;
      *)
        if [ -z "$command" ]; then command=$word
)";
  for (const Command& command : commands()) {
    if (!has_subcommands(command.name)) continue;
    text += fmt::format(
        "        elif [[ $command == {} && \" {} \" == *\" $word \"* ]]; then command=\"{} $word\"\n",
        command.name, names_below(command.name), command.name);
  }
  text += R"(        fi ;;
    esac
  done
  case $prev in --api-socket) COMPREPLY=($(compgen -f -- "$cur")); return ;; esac
  case "$command:$prev" in
)";
  for (const Command& command : commands()) {
    for (const Argument& argument : command.arguments) {
      if (!is_option(argument) || argument.kind == Kind::Flag) continue;
      text += fmt::format("    '{}:{}') {}; return ;;\n", command.name, argument.name,
                          bash_values(argument).empty() ? ":" : bash_values(argument));
    }
  }
  text += "  esac\n  if [[ $cur == -* ]]; then\n    case $command in\n";
  for (const Command& command : commands()) {
    std::string options;
    for (const Argument& argument : command.arguments) {
      if (is_option(argument)) options += fmt::format("{} ", argument.name);
    }
    if (options.empty()) continue;
    text += fmt::format("      '{}') COMPREPLY=($(compgen -W '{}{}' -- \"$cur\")) ;;\n", command.name,
                        options, kGlobals);
  }
  text += fmt::format("      *) COMPREPLY=($(compgen -W '{}' -- \"$cur\")) ;;\n    esac\n    return\n  fi\n",
                      kGlobals);
  text += fmt::format("  case $command in\n    '') COMPREPLY=($(compgen -W '{}' -- \"$cur\")) ;;\n",
                      names_below(""));
  for (const Command& command : commands()) {
    std::string values;
    for (const Argument& argument : command.arguments) {
      if (!is_option(argument)) values = bash_values(argument);
    }
    if (has_subcommands(command.name)) {
      values += fmt::format("; COMPREPLY+=($(compgen -W '{}' -- \"$cur\"))", names_below(command.name));
    }
    if (!values.empty()) text += fmt::format("    '{}') {} ;;\n", command.name, values);
  }
  return text + "  esac\n}\ncomplete -o filenames -F _vmm_remote vmm-remote\n";
}

std::string zsh_completion() {
  std::string text =
      "#compdef vmm-remote\n# zsh completion: vmm-remote completion zsh > some folder of $fpath/_vmm-remote\n"
      "_vmm_remote() {\n  local context state line\n  local -a globals commands\n"
      "  globals=('--api-socket[API socket]:path:_files' '--json[Print JSON]' '--quiet[No progress]' "
      "'--help[Help]')\n";
  const auto list = [&text](std::string_view parent) {
    text += "commands=(";
    for (const Command* command : below(parent)) {
      text += fmt::format("\n    '{}:{}'", last_word(*command), zsh_help(command->summary));
    }
    text += ")\n";
  };
  text += "  ";
  list("");
  text +=
      "  _arguments -C $globals '1: :->command' '*:: :->arguments'\n  case $state in\n"
      "    command) _describe command commands ;;\n    arguments) case $words[1] in\n";
  for (const Command* command : below("")) {
    text += fmt::format("      {})\n", last_word(*command));
    if (has_subcommands(command->name)) {
      text += "        case $words[2] in\n";
      for (const Command* inner : below(command->name)) {
        text += fmt::format("          {}) shift words; ((CURRENT--)); {}; return ;;\n", last_word(*inner),
                            zsh_arguments(*inner));
      }
      text += "        esac\n        ";
      list(command->name);
      text += "        (( CURRENT == 2 )) && _describe 'command' commands\n";
    }
    text += fmt::format("        {} ;;\n", zsh_arguments(*command));
  }
  return text + "    esac ;;\n  esac\n}\ncompdef _vmm_remote vmm-remote 2>/dev/null || _vmm_remote \"$@\"\n";
}

std::string fish_completion() {
  std::string text =
      "# fish completion:  vmm-remote completion fish | source\n"
      "complete -c vmm-remote -f\n"
      "complete -c vmm-remote -l api-socket -r -F -d 'API socket'\n"
      "complete -c vmm-remote -l json -d 'Print JSON'\n"
      "complete -c vmm-remote -l quiet -d 'No progress'\n";
  for (const Command& command : commands()) {
    const auto space = command.name.rfind(' ');
    const std::string_view last = last_word(command);
    std::string here;  // when this very command is on the line
    if (space == std::string_view::npos) {
      text += fmt::format("complete -c vmm-remote -n __fish_use_subcommand -a {} -d '{}'\n", last,
                          quoted(command.summary));
      here = fmt::format("__fish_seen_subcommand_from {}", last);
      if (has_subcommands(command.name)) {
        here += fmt::format("; and not __fish_seen_subcommand_from {}", names_below(command.name));
      }
    } else {
      const std::string_view parent = command.name.substr(0, space);
      text += fmt::format(
          "complete -c vmm-remote -n '__fish_seen_subcommand_from {}; and not __fish_seen_subcommand_from "
          "{}' -a "
          "{} -d '{}'\n",
          parent, names_below(parent), last, quoted(command.summary));
      here = fmt::format("__fish_seen_subcommand_from {}; and __fish_seen_subcommand_from {}", parent, last);
    }
    for (const Argument& argument : command.arguments) {
      if (is_option(argument)) {
        text += fmt::format("complete -c vmm-remote -n '{}' -l {}{} -d '{}'\n", here, argument.name.substr(2),
                            fish_values(argument), quoted(argument.help));
      } else if (argument.value == "FILE" || argument.value == "DIR" || argument.is_choice()) {
        text += fmt::format("complete -c vmm-remote -n '{}'{}\n", here,
                            argument.value == "FILE" ? " -F" : fish_values(argument).substr(3));
      }
    }
  }
  return text;
}

Status run_completion(Session& session, const Command&, const Arguments& arguments) {
  const std::string shell = arguments.get("shell");
  // A script is what was asked for, with --json too.
  session.stream(shell == "zsh" ? zsh_completion() : shell == "fish" ? fish_completion() : bash_completion());
  return {};
}

}  // namespace vmmd::remote
