#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace vmmd::remote {

/// Lines from a person at a terminal, with editing, history and completion (libedit).
class LineEditor {
 public:
  /// `complete` gives all words that may stand first on a line. `history` is a file, or empty for none.
  LineEditor(std::string prompt, std::string history, std::function<std::vector<std::string>()> complete);
  ~LineEditor();
  LineEditor(const LineEditor&) = delete;
  LineEditor& operator=(const LineEditor&) = delete;

  /// One line without its end; empty after Ctrl-C. Nothing at the end of input.
  std::optional<std::string> read();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// $XDG_STATE_HOME/vmmd/shell_history, its folder made; empty where there is no home.
[[nodiscard]] std::string history_path();

}  // namespace vmmd::remote
