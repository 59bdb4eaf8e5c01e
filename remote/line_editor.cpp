#include "remote/line_editor.h"

#include <histedit.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <utility>

namespace vmmd::remote {

namespace {

constexpr int kHistorySize = 1000;  // lines

}  // namespace

struct LineEditor::State {
  std::string prompt;
  std::string history_file;
  std::function<std::vector<std::string>()> complete;
  EditLine* editor = nullptr;
  History* history = nullptr;
  bool dropped = false;  // the line that was read last ended with Ctrl-C

  static State* of(EditLine* editor) {
    void* state = nullptr;
    el_get(editor, EL_CLIENTDATA, &state);
    return static_cast<State*>(state);
  }
  static char* show_prompt(EditLine* editor) { return of(editor)->prompt.data(); }
  static unsigned char on_tab(EditLine* editor, int) { return of(editor)->tab(); }
  static unsigned char on_drop(EditLine* editor, int) {
    of(editor)->dropped = true;
    return CC_NEWLINE;
  }
  unsigned char tab();
};

/// Completes the first word as far as it is clear, else lists what it may become.
unsigned char LineEditor::State::tab() {
  const LineInfo* line = el_line(editor);
  const std::string typed(line->buffer, line->cursor);
  if (typed.find(' ') != std::string::npos) return CC_ERROR;
  std::vector<std::string> fits;
  for (std::string& word : complete()) {
    if (word.starts_with(typed)) fits.push_back(std::move(word));
  }
  if (fits.empty()) return CC_ERROR;
  std::string common = fits.front();
  for (const std::string& word : fits) {
    while (!word.starts_with(common)) common.pop_back();
  }
  std::string more = common.substr(typed.size());
  if (fits.size() == 1) more += ' ';
  if (!more.empty()) return el_insertstr(editor, more.c_str()) == 0 ? CC_REFRESH : CC_ERROR;
  std::fputc('\n', stdout);
  for (const std::string& word : fits) std::printf("%s  ", word.c_str());
  std::fputc('\n', stdout);
  return CC_REDISPLAY;
}

LineEditor::LineEditor(std::string prompt, std::string history,
                       std::function<std::vector<std::string>()> complete)
    : state_(std::make_unique<State>()) {
  state_->prompt = std::move(prompt);
  state_->history_file = std::move(history);
  state_->complete = std::move(complete);
  EditLine* editor = el_init("vmm-remote", stdin, stdout, stderr);
  state_->editor = editor;
  el_set(editor, EL_CLIENTDATA, state_.get());
  el_set(editor, EL_PROMPT, &State::show_prompt);
  el_set(editor, EL_EDITOR, "emacs");
  el_set(editor, EL_ADDFN, "vmmd-complete", "Complete a command", &State::on_tab);
  el_set(editor, EL_BIND, "^I", "vmmd-complete", nullptr);
  // Ctrl-C is a key like others while a line is edited: a signal could come between two keys and be lost.
  el_set(editor, EL_SETTY, "-d", "-isig", nullptr);
  el_set(editor, EL_ADDFN, "vmmd-drop", "Forget the line", &State::on_drop);
  el_set(editor, EL_BIND, "^C", "vmmd-drop", nullptr);
  el_set(editor, EL_BIND, "^R", "em-inc-search-prev", nullptr);
  el_source(editor, nullptr);  // the user's ~/.editrc
  state_->history = history_init();
  HistEvent event = {};
  ::history(state_->history, &event, H_SETSIZE, kHistorySize);
  ::history(state_->history, &event, H_SETUNIQUE, 1);
  el_set(editor, EL_HIST, &::history, state_->history);
  if (!state_->history_file.empty()) {
    ::history(state_->history, &event, H_LOAD, state_->history_file.c_str());
  }
}

LineEditor::~LineEditor() {
  HistEvent event = {};
  if (!state_->history_file.empty()) {
    ::history(state_->history, &event, H_SAVE, state_->history_file.c_str());
  }
  el_end(state_->editor);
  history_end(state_->history);
}

std::optional<std::string> LineEditor::read() {
  int size = 0;
  state_->dropped = false;
  // Before the prompt shows: what is typed as soon as it does is edited like the rest.
  el_set(state_->editor, EL_PREP_TERM, 1);
  const char* line = el_gets(state_->editor, &size);
  if (state_->dropped) {
    std::fputs("^C\n", stdout);
    return std::string();
  }
  if (line == nullptr || size <= 0) return std::nullopt;
  std::string text(line, static_cast<std::size_t>(size));
  while (text.ends_with('\n') || text.ends_with('\r')) text.pop_back();
  if (text.find_first_not_of(" \t") != std::string::npos) {
    HistEvent event = {};
    ::history(state_->history, &event, H_ENTER, text.c_str());
  }
  return text;
}

std::string history_path() {
  std::filesystem::path folder;
  if (const char* state = std::getenv("XDG_STATE_HOME"); state != nullptr && *state == '/') {
    folder = state;
  } else if (const char* home = std::getenv("HOME"); home != nullptr && *home == '/') {
    folder = std::filesystem::path(home) / ".local" / "state";
  } else {
    return {};
  }
  folder /= "vmmd";
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  return error ? std::string() : (folder / "shell_history").native();
}

}  // namespace vmmd::remote
