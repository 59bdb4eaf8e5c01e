#include "daemon/memory/ram_guard.h"

#include <poll.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

#include <doctest/doctest.h>

#include "daemon/memory/guest_ram.h"

using namespace vmmd;
using namespace vmmd::memory;

namespace {

// A memory file of four pages, of which the last two are gone.
struct CutFile {
  UniqueFd file{::memfd_create("ram", MFD_CLOEXEC)};
  std::byte* pages = nullptr;

  CutFile() {
    REQUIRE(::ftruncate(file.get(), 4 * kPageSize) == 0);
    void* const mapped = ::mmap(nullptr, 4 * kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
    REQUIRE(mapped != MAP_FAILED);
    pages = static_cast<std::byte*>(mapped);
    std::memset(pages, 0x5A, 4 * kPageSize);
    REQUIRE(::ftruncate(file.get(), 2 * kPageSize) == 0);
  }
  ~CutFile() { ::munmap(pages, 4 * kPageSize); }
  CutFile(const CutFile&) = delete;
  CutFile& operator=(const CutFile&) = delete;
};

bool readable(int fd) {
  pollfd entry = {fd, POLLIN, 0};
  return ::poll(&entry, 1, 0) == 1;
}

std::byte peek(const std::byte* address) {
  return *const_cast<const volatile std::byte*>(address);
}

}  // namespace

TEST_CASE("touching a page that is gone finds zeros, and is remembered") {
  const CutFile ram;
  auto guard = RamGuard::create();
  REQUIRE(guard);
  REQUIRE((*guard)->cover(ram.pages, 4 * kPageSize, kPageSize));
  CHECK_FALSE((*guard)->first_lost());
  CHECK_FALSE(readable((*guard)->fd()));
  const std::byte* const gone = ram.pages + 2 * kPageSize + 0x123;
  CHECK(peek(gone) == std::byte{0});
  REQUIRE((*guard)->first_lost());
  CHECK(*(*guard)->first_lost() == reinterpret_cast<std::uintptr_t>(gone));
  CHECK(readable((*guard)->fd()));
  // What is there is as it was; what comes later does not change what was first.
  CHECK(peek(ram.pages + kPageSize) == std::byte{0x5A});
  std::memset(ram.pages + 3 * kPageSize, 1, kPageSize);
  CHECK(peek(ram.pages + 3 * kPageSize) == std::byte{1});
  CHECK(*(*guard)->first_lost() == reinterpret_cast<std::uintptr_t>(gone));
}

TEST_CASE("each guard knows what it lost itself") {
  const CutFile one;
  const CutFile two;
  auto first = RamGuard::create();
  auto second = RamGuard::create();
  REQUIRE((*first)->cover(one.pages, 4 * kPageSize, kPageSize));
  REQUIRE((*second)->cover(two.pages, 4 * kPageSize, kPageSize));
  CHECK(peek(two.pages + 3 * kPageSize) == std::byte{0});
  CHECK_FALSE((*first)->first_lost());
  CHECK((*second)->first_lost());
}

TEST_CASE("a guard that has gone leaves its place to others") {
  for (int i = 0; i < 1000; ++i) {
    const CutFile ram;
    auto guard = RamGuard::create();
    REQUIRE((*guard)->cover(ram.pages, 4 * kPageSize, kPageSize));
    CHECK_FALSE((*guard)->first_lost());
    CHECK(peek(ram.pages + 2 * kPageSize) == std::byte{0});
    CHECK((*guard)->first_lost());
  }
}

TEST_CASE("a bus error elsewhere ends the process as ever") {
  const CutFile ram;
  const CutFile elsewhere;
  auto guard = RamGuard::create();
  REQUIRE((*guard)->cover(ram.pages, 4 * kPageSize, kPageSize));
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    static_cast<void>(peek(elsewhere.pages + 3 * kPageSize));
    ::_exit(0);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  const bool ended_by_itself = WIFEXITED(status) && WEXITSTATUS(status) == 0;
  CHECK_FALSE(ended_by_itself);
}

TEST_CASE("RAM whose file was cut is not whole, touched or not") {
  UniqueFd file(::memfd_create("ram", MFD_CLOEXEC));
  const int fd = file.get();
  REQUIRE(::ftruncate(fd, 16 * kPageSize) == 0);
  const auto layout = ram_layout(16 * kPageSize, 46);
  REQUIRE(layout);
  const auto ram = GuestRam::live_file(std::move(file), *layout, {});
  REQUIRE(ram);
  CHECK(ram->check_whole());
  REQUIRE(::ftruncate(fd, 8 * kPageSize) == 0);
  REQUIRE_FALSE(ram->check_whole());
  CHECK(ram->check_whole().error().to_string().find("was cut to 32768 bytes, the VM has 65536") !=
        std::string::npos);
  // Its length alone comes back, not what was there: a page that was missed in between is remembered.
  CHECK(peek(ram->regions().front().host + 9 * kPageSize) == std::byte{0});
  REQUIRE(::ftruncate(fd, 16 * kPageSize) == 0);
  REQUIRE_FALSE(ram->check_whole());
  CHECK(ram->check_whole().error().to_string().find("guest RAM at 0x9000") != std::string::npos);
}
