#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "remote/session.h"

// A prompt with the words of OpenVMM's, which are our commands by other names.
namespace vmmd::remote {

class Arguments;

/// Words of a shell line, and where a line stands for several (`;`). Quotes ' and " and the backslash as in
/// sh. An error for a quote that never ends.
Result<std::vector<std::vector<std::string>>> split_shell_line(std::string_view text);

/// What a shell line means.
struct ShellAction {
  enum class Kind { Run, Quit, Help, Refuse };
  Kind kind = Kind::Run;
  std::vector<std::string> words;  // Run: the command line of vmm-remote
  std::string message;             // Refuse: why
};
/// `words` is not empty.
[[nodiscard]] ShellAction resolve_shell_line(const std::vector<std::string>& words);

/// Reads lines until `quit` or the end of input. The exit status: of the last line that failed, at a terminal
/// always 0.
int run_shell(const Globals& globals);
/// Runs `text` as lines of the shell, up to the first that fails.
int run_script(const Globals& globals, std::string_view text);

}  // namespace vmmd::remote
