#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "api/json_reader.h"

namespace vmmd::api {

using nlohmann::json;

namespace {

/// Makes a tree of a document in one pass, and stops at what must never become one.
class TreeReader : public json::json_sax_t {
 public:
  bool null() override { return value() && place(nullptr); }
  bool boolean(bool truth) override { return value() && place(truth); }
  bool number_integer(json::number_integer_t number) override { return value() && place(number); }
  bool number_unsigned(json::number_unsigned_t number) override { return value() && place(number); }
  bool number_float(json::number_float_t number, const std::string& /*text*/) override {
    return value() && place(number);
  }
  bool string(std::string& text) override { return value() && check_text(text) && place(std::move(text)); }
  bool binary(json::binary_t& /*value*/) override { return false; }  // JSON text has none
  bool start_object(std::size_t /*elements*/) override { return value() && open(json::object()); }
  bool end_object() override { return close(); }
  bool start_array(std::size_t /*elements*/) override { return value() && open(json::array()); }
  bool end_array() override { return close(); }

  bool key(std::string& text) override {
    Frame& frame = frames_.back();
    const auto [member, fresh] = frame.node->get_ref<json::object_t&>().try_emplace(text);
    frame.key = member->first;
    frame.member = &member->second;
    if (!fresh) mistakes_.add(pointer(), "given twice");
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
  json& root() { return root_; }

 private:
  // Of a value that is being read. Its own address stays: whatever holds it gets nothing more until it is
  // closed.
  struct Frame {
    json* node = nullptr;
    std::string_view key;  // of an object: the name of the member being read, and the member
    json* member = nullptr;
    std::size_t index = 0;  // of the element being read, plus one
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

  bool place(json&& node) { return put(std::move(node)) != nullptr; }

  json* put(json&& node) {
    if (frames_.empty()) return &(root_ = std::move(node));
    const Frame& frame = frames_.back();
    if (frame.node->is_object()) return &(*frame.member = std::move(node));
    return &frame.node->get_ref<json::array_t&>().emplace_back(std::move(node));
  }

  bool open(json&& node) {
    if (frames_.size() >= JsonDocument::kMaxDepth) return stop("nested too deeply");
    json* const placed = put(std::move(node));
    frames_.push_back(Frame{.node = placed, .key = {}, .member = nullptr, .index = 0});
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
      if (frame.node->is_object()) {
        chain.emplace_back(chain.back(), frame.key);
      } else {
        chain.emplace_back(chain.back(), frame.index - 1);
      }
    }
    return chain.back().to_string();
  }

  std::vector<Frame> frames_;
  std::size_t values_ = 0;
  JsonMistakes mistakes_;
  json root_;
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
  TreeReader reader;
  const bool whole = json::sax_parse(text, &reader);
  if (!reader.mistakes().empty()) return tl::make_unexpected(reader.mistakes().take());
  if (!whole) return fail(ErrorCode::BadRequest, "(root): not valid JSON");
  return JsonDocument(std::make_unique<json>(std::move(reader.root())));
}

}  // namespace vmmd::api
