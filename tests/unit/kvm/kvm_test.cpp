#include "daemon/kvm/kvm.h"

#include <string>

#include <doctest/doctest.h>

#include "tests/unit/support/temp_dir.h"

using namespace vmmd;

namespace {

void refused(const std::string& path, ErrorCode code, std::initializer_list<std::string> parts) {
  const auto opened = kvm::Kvm::open(path);
  REQUIRE_FALSE(opened);
  CHECK(opened.error().code == code);
  const std::string text = opened.error().to_string();
  CAPTURE(text);
  for (const std::string& part : parts) {
    CAPTURE(part);
    CHECK(text.find(part) != std::string::npos);
  }
}

}  // namespace

TEST_CASE("a host without /dev/kvm is told what to load, and who may open it") {
  const testing::TempDir dir;
  const std::string path = dir / "kvm";
  refused(
      path, ErrorCode::BadRequest,
      {"KVM is not available", "load kvm_intel or kvm_amd", "let this user open " + path, "No such file"});
}

TEST_CASE("what is not KVM is said to be not KVM") {
  refused("/dev/null", ErrorCode::NotSupported, {"/dev/null is not KVM", "Inappropriate ioctl"});
}
