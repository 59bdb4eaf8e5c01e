#include "daemon/control/left_behind.h"

#include <atomic>
#include <utility>

namespace vmmd::control {

namespace {

std::atomic<bool> any = false;

}  // namespace

void leave_behind(std::vector<std::shared_ptr<void>> things) {
  any = true;
  static auto& kept = *new std::vector<std::vector<std::shared_ptr<void>>>;
  kept.push_back(std::move(things));
}

bool anything_left_behind() {
  return any;
}

}  // namespace vmmd::control
