// Writes the sample snapshot of the unit tests to the directory given, for readers that are not ours.
#include <cstdio>
#include <string_view>

#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include "tests/unit/snapshot/fixture.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fputs("usage: snapshot-sample plain|linked DIR\n", stderr);
    return 2;
  }
  doctest::Context context;  // the fixture checks with doctest's macros
  context.setAsDefaultForAssertsOutOfTestCases();
  vmmd::snapshot::test::publish_sample(argv[2], {.digests = std::string_view(argv[1]) == "plain"});
  return 0;
}
