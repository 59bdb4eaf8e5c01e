#include "api/edit_distance.h"

#include <algorithm>
#include <cstddef>

namespace vmmd::api {

namespace {

constexpr std::size_t kMaxDistance = 2;
constexpr std::size_t kMaxWord = 64;  // the cost is quadratic, and the word is a stranger's

/// Levenshtein's distance, one row at a time.
std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t change = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({change, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

}  // namespace

std::string_view closest(std::string_view word, const std::vector<std::string_view>& candidates) {
  if (word.size() > kMaxWord) return {};
  std::string_view best;
  // A short word is near to everything: the distance must be less than half of it.
  std::size_t limit = std::min(kMaxDistance + 1, (word.size() + 1) / 2);
  for (const std::string_view candidate : candidates) {
    if (const std::size_t d = distance(word, candidate); d < limit) {
      limit = d;
      best = candidate;
    }
  }
  return best;
}

}  // namespace vmmd::api
