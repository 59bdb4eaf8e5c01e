#include "remote/terminal.h"

#include <doctest/doctest.h>

using namespace vmmd;
using namespace vmmd::remote;

namespace {

EscapeFilter filter(std::string_view spec) {
  auto parsed = EscapeFilter::parse(spec);
  REQUIRE(parsed.has_value());
  return *parsed;
}

}  // namespace

TEST_CASE("the escape key ends the typing, and nothing behind it is sent") {
  EscapeFilter keys = filter("^]");
  CHECK(keys.feed("ls\r") == "ls\r");
  CHECK_FALSE(keys.escaped());
  CHECK(keys.feed("ab\x1d"
                  "cd") == "ab");
  CHECK(keys.escaped());
  CHECK(keys.feed("more").empty());
}

TEST_CASE("control keys are given in either case") {
  EscapeFilter keys = filter("^a");
  CHECK(keys.hint() == "Ctrl-A");
  CHECK(keys.feed("x\x01").size() == 1);
  CHECK(keys.escaped());
}

TEST_CASE("~. leaves at the start of a line only") {
  EscapeFilter keys = filter("~.");
  CHECK(keys.feed("a~.b") == "a~.b");
  CHECK_FALSE(keys.escaped());
  CHECK(keys.feed("\r~") == "\r");  // held back until it is clear
  CHECK(keys.feed(".").empty());
  CHECK(keys.escaped());
}

TEST_CASE("~~ types one tilde, and a tilde before another key is typed with it") {
  EscapeFilter keys = filter("~.");
  CHECK(keys.feed("~~") == "~");
  CHECK(keys.feed(".") == ".");
  CHECK(keys.feed("\n~/bin") == "\n~/bin");
  CHECK_FALSE(keys.escaped());
}

TEST_CASE("without an escape everything is typed") {
  EscapeFilter keys = filter("none");
  CHECK(keys.feed("\x1d~.") == "\x1d~.");
  CHECK_FALSE(keys.escaped());
  CHECK(keys.hint().empty());
}

TEST_CASE("what is no escape is refused") {
  for (const char* spec : {"", "x", "^", "^1", "^]]", "~", "ctrl-a"}) {
    CAPTURE(spec);
    CHECK_FALSE(EscapeFilter::parse(spec).has_value());
  }
}
