#include "daemon/memory/guest_ram.h"

#include <doctest/doctest.h>

#include "daemon/memory/layout.h"

using namespace vmmd;
using namespace vmmd::memory;

TEST_CASE("huge pages that the host does not have are an error, not a SIGBUS later") {
  api::MemoryConfig config;
  config.size = std::uint64_t{1} << 45;  // more than any host sets aside
  config.hugepages = true;
  const auto layout = ram_layout(config.size, 52);
  REQUIRE(layout);
  const auto ram = GuestRam::allocate(config, *layout);
  REQUIRE_FALSE(ram);
}
