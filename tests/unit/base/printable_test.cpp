#include "base/printable.h"

#include <doctest/doctest.h>

using namespace vmmd;

TEST_CASE("nothing in printable text moves a terminal's cursor, in one byte or in two") {
  CHECK(printable("a\x1B]0;title\x07z") == "a?]0;title?z");
  CHECK(printable("a\xC2\x9B"
                  "2J\x7F") == "a?2J?");
  CHECK(printable(std::string_view("a\0b\rc", 5)) == "a?b?c");
}

TEST_CASE("what people write stays, beside a cut sequence too") {
  CHECK(printable("/sch\xC3\xB6n/\xC2\xA0/\xE2\x82\xAC") == "/sch\xC3\xB6n/\xC2\xA0/\xE2\x82\xAC");
  CHECK(printable("a\xC2") == "a\xC2");
}

TEST_CASE("a line break stays only in text of many lines") {
  CHECK(printable("a\n\tb\r") == "a??b?");
  CHECK(printable("a\n\tb\r", Lines::Many) == "a\n\tb?");
}
