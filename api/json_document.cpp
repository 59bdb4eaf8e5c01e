#include <set>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "api/json_reader.h"

namespace vmmd::api {

using nlohmann::json;

namespace {

/// Reads a document without keeping it, and refuses what must never become a tree in memory.
class FormChecker : public json::json_sax_t {
 public:
  bool null() override { return value(); }
  bool boolean(bool /*value*/) override { return value(); }
  bool number_integer(json::number_integer_t /*value*/) override { return value(); }
  bool number_unsigned(json::number_unsigned_t /*value*/) override { return value(); }
  bool number_float(json::number_float_t /*value*/, const std::string& /*text*/) override { return value(); }
  bool string(std::string& text) override { return value() && check_text(text); }
  bool binary(json::binary_t& /*value*/) override { return value(); }
  bool start_object(std::size_t /*elements*/) override { return value() && open(true); }
  bool end_object() override { return close(); }
  bool start_array(std::size_t /*elements*/) override { return value() && open(false); }
  bool end_array() override { return close(); }

  bool key(std::string& text) override {
    Frame& frame = frames_.back();
    frame.key = text;
    if (!frame.keys.insert(text).second) mistakes_.add(pointer(), "given twice");
    return check_text(text);
  }

  bool parse_error(std::size_t position, const std::string& /*token*/,
                   const json::exception& error) override {
    // "[json.exception.parse_error.101] parse error at line 1, column 8: syntax error while … - why; last
    // read: …", of which only the reason is ours to repeat: the token may be long and is not always text.
    std::string_view why = error.what();
    if (const auto start = why.find(" - "); start != std::string_view::npos) why.remove_prefix(start + 3);
    why = why.substr(0, why.find("; last read"));
    mistakes_.add("(root)", fmt::format("not valid JSON at byte {}: {}", position, why.substr(0, 200)));
    return false;
  }

  JsonMistakes& mistakes() { return mistakes_; }

 private:
  struct Frame {
    bool is_object = false;
    std::string key;
    std::size_t index = 0;       // of the element being read, plus one
    std::set<std::string> keys;  // ordered: a hash table could be made slow by chosen keys
  };

  bool stop(std::string_view what) {
    mistakes_.add(pointer(), what);
    return false;
  }

  bool value() {
    if (!frames_.empty()) ++frames_.back().index;
    return ++values_ <= JsonDocument::kMaxValues || stop("too many values in one document");
  }

  bool check_text(const std::string& text) {
    if (text.size() > JsonDocument::kMaxString) return stop("the string is too long");
    // No path, name or command line can have one, and C strings would end there.
    if (text.find('\0') != std::string::npos) return stop("a string must not contain a NUL character");
    return true;
  }

  bool open(bool is_object) {
    if (frames_.size() >= JsonDocument::kMaxDepth) return stop("nested too deeply");
    frames_.push_back(Frame{is_object, {}, 0, {}});
    return true;
  }

  bool close() {
    frames_.pop_back();
    return true;
  }

  std::string pointer() const {
    std::vector<JsonPath> chain(1);
    chain.reserve(frames_.size() + 1);  // the elements point at each other
    for (const Frame& frame : frames_) {
      if (frame.is_object) {
        chain.emplace_back(chain.back(), std::string_view(frame.key));
      } else {
        chain.emplace_back(chain.back(), frame.index - 1);
      }
    }
    return chain.back().to_string();
  }

  std::vector<Frame> frames_;
  std::size_t values_ = 0;
  JsonMistakes mistakes_;
};

}  // namespace

JsonDocument::JsonDocument(std::unique_ptr<json> root) : root_(std::move(root)) {}
JsonDocument::JsonDocument(JsonDocument&&) noexcept = default;
JsonDocument& JsonDocument::operator=(JsonDocument&&) noexcept = default;
JsonDocument::~JsonDocument() = default;

Result<JsonDocument> JsonDocument::parse(std::string_view text) {
  if (text.size() > kMaxLength) {
    return fail(ErrorCode::TooLarge, "the JSON is {} bytes long, more than {}", text.size(), kMaxLength);
  }
  if (text.find_first_not_of(" \t\r\n") == std::string_view::npos) {
    return fail(ErrorCode::BadRequest, "(root): empty: a JSON object is expected");
  }
  FormChecker checker;
  json::sax_parse(text, &checker);
  if (!checker.mistakes().empty()) return tl::make_unexpected(checker.mistakes().take());
  // Cannot fail any more: the same parser has just read the same bytes.
  auto root = std::make_unique<json>(json::parse(text, nullptr, /*allow_exceptions=*/false));
  if (root->is_discarded()) return fail(ErrorCode::BadRequest, "(root): not valid JSON");
  return JsonDocument(std::move(root));
}

}  // namespace vmmd::api
