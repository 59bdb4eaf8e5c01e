#include "daemon/snapshot/pace.h"

#include <algorithm>
#include <chrono>

#include <doctest/doctest.h>

using namespace std::chrono_literals;
using vmmd::snapshot::Pace;

TEST_CASE("a disk that keeps up gets more at once, up to the most") {
  Pace pace;
  for (int i = 0; i < 20; ++i) {
    const auto before = pace.piece();
    pace.took(before, 200us);
    CHECK(pace.piece() == std::min(before * 2, Pace::kMost));
  }
  CHECK(pace.piece() == Pace::kMost);
}

TEST_CASE("a slow disk gets little at once after two waits, and never less than the least") {
  Pace pace;
  while (pace.piece() < Pace::kMost) pace.took(pace.piece(), 1us);
  pace.took(Pace::kMost, 100ms);
  CHECK(pace.piece() < Pace::kMost);
  pace.took(4096, 11ms);  // a short one that waits says as much
  CHECK(pace.piece() == Pace::kLeast);
  pace.took(pace.piece(), 1s);
  CHECK(pace.piece() == Pace::kLeast);
}

TEST_CASE("neither a short piece that was fast nor one that was neither changes anything") {
  Pace pace;
  const auto before = pace.piece();
  pace.took(before - 4096, 1us);
  pace.took(before, 5ms);
  CHECK(pace.piece() == before);
}
