#include "daemon/vm/vsock_end.h"

#include <filesystem>

#include <doctest/doctest.h>

#include "tests/unit/support/temp_dir.h"

using namespace vmmd;

TEST_CASE("vsock: a live socket is refused, a stale one replaced, and ours goes with us") {
  const testing::TempDir dir;
  api::VsockConfig config;
  config.socket = dir / "v";
  {
    const auto first = vm::VsockEnd::open(config);
    REQUIRE(first);
    const auto second = vm::VsockEnd::open(config);
    REQUIRE_FALSE(second);
    CHECK(second.error().code == ErrorCode::Conflict);
    CHECK(second.error().to_string().find("in use by another process") != std::string::npos);
  }
  CHECK_FALSE(std::filesystem::exists(config.socket));
  {
    const auto stale = *UnixListener::open(config.socket, 1);
    static_cast<void>(stale->take_fd());
    CHECK(vm::VsockEnd::open(config));
  }
}
