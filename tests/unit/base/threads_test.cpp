#include <pthread.h>

#include <array>
#include <string>
#include <thread>

#include <doctest/doctest.h>

#include "base/inherited_name.h"

namespace vmmd {
namespace {

std::string my_name() {
  std::array<char, 16> name{};
  CHECK(::pthread_getname_np(::pthread_self(), name.data(), name.size()) == 0);
  return name.data();
}

}  // namespace

TEST_CASE("a thread has its name from its first moment, and who starts it keeps its own") {
  const std::string mine = my_name();
  std::string born;
  {
    const InheritedName name("vcpu0-and-what-is-too-long");
    std::thread([&born] { born = my_name(); }).join();
  }
  CHECK(born == "vcpu0-and-what-");
  CHECK(my_name() == mine);
}

}  // namespace vmmd
