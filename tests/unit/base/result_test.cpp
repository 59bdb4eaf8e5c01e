#include "base/result.h"

#include <cerrno>

#include <doctest/doctest.h>

using namespace vmmd;

namespace {
Result<int> half(int n) {
  if (n % 2 != 0) return fail(ErrorCode::BadRequest, "{} is odd", n);
  return n / 2;
}
Result<int> quarter(int n) {
  VMMD_ASSIGN(const int h, half(n));
  auto q = half(h);
  if (!q) return wrap(std::move(q).error(), "cannot quarter {}", n);
  return q;
}
}  // namespace

TEST_CASE("errors carry their causes outermost first and keep the code") {
  const auto result = quarter(6);
  REQUIRE_FALSE(result);
  CHECK(result.error().code == ErrorCode::BadRequest);
  CHECK(result.error().to_string() == "cannot quarter 6: 3 is odd");
  CHECK(*quarter(8) == 2);
}

TEST_CASE("an errno becomes the cause") {
  const Status status = fail_errno(ErrorCode::NotFound, ENOENT, "cannot open {}", "x");
  CHECK(status.error().to_string() == "cannot open x: No such file or directory");
}
