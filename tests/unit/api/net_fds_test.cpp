#include "api/net_fds.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>

#include "api/messages.h"
#include "api/options.h"
#include "api/overrides.h"

using namespace vmmd;
using namespace vmmd::api;

namespace {

NetConfig network(const std::string& id, std::vector<std::int32_t> fds) {
  NetConfig net;
  net.pci.id = id;
  if (!fds.empty()) net.num_queues = static_cast<std::uint16_t>(2 * fds.size());
  net.fds = std::move(fds);
  return net;
}

UniqueFd open_null() {
  return UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
}

PassedFds some(std::size_t count) {
  PassedFds fds;
  for (std::size_t i = 0; i < count; ++i) fds.push_back(open_null());
  return fds;
}

std::string text(const Error& error) {
  return error.to_string();
}

}  // namespace

TEST_CASE("places for descriptors: a configuration's, by network, in its order") {
  VmConfig config;
  config.net = {network("b", {9, 7}), network("tap", {}), network("a", {-1})};
  CHECK(fd_places(config) == std::vector<NetFds>{{"b", {9, 7}}, {"a", {-1}}});
}

TEST_CASE("places for descriptors: a restore's net_fds, then its overrides") {
  auto request = parse_restore_option("source_url=/d,net_fds=[n@[3,4],m@[5]]");
  REQUIRE(request);
  request->overrides =
      R"({"net": [{"id": "o", "fds": [6]}, {"id": "t", "tap": "x"}, {"id": "z", "fds": null}]})";
  CHECK(fd_places(*request) == std::vector<NetFds>{{"n", {3, 4}}, {"m", {5}}, {"o", {6}}});
  // A client and a server see the same places, whatever numbers travel.
  const auto received = parse_restore_request(to_json(*request));
  REQUIRE(received);
  CHECK(fd_places(*received) == std::vector<NetFds>{{"n", {-1, -1}}, {"m", {-1}}, {"o", {6}}});
}

TEST_CASE("places for descriptors: overrides that are wrong have none") {
  for (const char* overrides :
       {"", "7", "{", R"({"net": 7})", R"({"net": [7]})", R"({"net": [{"fds": [3]}]})",
        R"({"net": [{"id": 7, "fds": [3]}]})", R"({"net": [{"id": "n", "fds": 3}]})",
        R"({"net": {"id": {"id": "n", "fds": []}}})"}) {
    CAPTURE(overrides);
    RestoreRequest request;
    request.overrides = overrides;
    CHECK(fd_places(request).empty());
  }
}

TEST_CASE("descriptors are shared out in the order in which they came") {
  PassedFds fds = some(3);
  const std::vector<int> numbers = {fds[0].get(), fds[1].get(), fds[2].get()};
  const auto shared = share_out({{"b", {-1, -1}}, {"a", {-1}}}, std::move(fds));
  REQUIRE(shared);
  REQUIRE(shared->size() == 2);
  CHECK(shared->at("b").at(0).get() == numbers[0]);
  CHECK(shared->at("b").at(1).get() == numbers[1]);
  CHECK(shared->at("a").at(0).get() == numbers[2]);
}

TEST_CASE("as many descriptors come as there are places") {
  const std::vector<NetFds> places = {{"lan", {-1}}, {"wan", {-1, -1}}};
  const auto none = share_out(places, {});
  REQUIRE_FALSE(none);
  CHECK(none.error().code == ErrorCode::BadRequest);
  CHECK(
      text(none.error())
          .starts_with(
              R"(no descriptor came with the request, and network "lan" takes 1, "wan" 2: send open taps)"));
  CHECK(text(share_out(places, some(4)).error()).starts_with("4 descriptors came with the request"));
  CHECK(text(share_out({}, some(2)).error()).find("no network takes any") != std::string::npos);
  CHECK(share_out({}, {}));
  CHECK(text(share_out({{"n", {-1}}, {"n", {-1}}}, some(2)).error()).find("\"n\" gets descriptors twice") !=
        std::string::npos);
}

TEST_CASE("descriptors are inherited by their numbers, which stay as they are") {
  const UniqueFd own = open_null();
  REQUIRE(own.get() > 2);
  const auto fds = inherited_fds({{"n", {own.get()}}});
  REQUIRE(fds);
  REQUIRE(fds->size() == 1);
  CHECK(fds->front().get() != own.get());
  CHECK((::fcntl(fds->front().get(), F_GETFD) & FD_CLOEXEC) != 0);
  CHECK(::fcntl(own.get(), F_GETFD) >= 0);
}

TEST_CASE("a number that is no inherited descriptor is refused by its network's name") {
  const UniqueFd own = open_null();
  for (const std::int32_t number : {-1, 0, 2, 1'000'000}) {
    CAPTURE(number);
    const auto refused = inherited_fds({{"n", {own.get()}}, {"lan", {number}}});
    REQUIRE_FALSE(refused);
    CHECK(text(refused.error()).find("\"lan\"") != std::string::npos);
    CHECK(text(refused.error()).find(std::to_string(number)) != std::string::npos);
  }
  CHECK(inherited_fds({{"n", {own.get(), own.get()}}}).error().code == ErrorCode::Conflict);
}

TEST_CASE("a restore's descriptors take the place of what its networks had") {
  VmConfig config;
  config.net = {network("a", {}), network("b", {-1, -1})};
  config.net[0].tap = "tap0";
  config.net[0].ip = "192.0.2.1";
  config.net[0].mask = "255.255.255.0";
  config.net[0].host_mac = "02:00:00:00:00:01";
  REQUIRE(replace_taps(config, {{"a", {9}}}));
  CHECK(config.net[0].fds == std::vector<std::int32_t>{9});
  CHECK_FALSE(config.net[0].tap);
  CHECK_FALSE(config.net[0].ip);
  CHECK_FALSE(config.net[0].mask);
  CHECK_FALSE(config.net[0].host_mac);
  const auto refused = replace_taps(config, {{"b", {5}}, {"c", {6}}});
  REQUIRE_FALSE(refused);
  CHECK(refused.error().messages ==
        std::vector<std::string>{"/net_fds: network \"b\" takes 2, one for each queue pair, not 1",
                                 "/net_fds: the snapshot has no network \"c\""});
}

TEST_CASE("a network whose taps were descriptors needs new ones") {
  VmConfig config;
  config.net = {network("a", {-1}), network("b", {-1}), network("c", {})};
  CHECK(networks_without_taps(config, {{"b", {-1}}}) == std::vector<std::string>{"a"});
}

TEST_CASE("numbers of descriptors that are open are forgotten") {
  VmConfig config;
  config.net = {network("a", {5, 6}), network("c", {})};
  forget_fd_numbers(config);
  CHECK(config.net[0].fds == std::vector<std::int32_t>{-1, -1});
  CHECK(config.net[1].fds.empty());
}

TEST_CASE(
    "an override of a network by descriptors drops how its tap was set up, one by another tap does not") {
  constexpr std::string_view kSealed =
      R"({"payload": {"kernel": "/k"}, "net": [{"id": "n", "tap": "t", "ip": "192.0.2.1", "host_mac": "02:00:00:00:00:01"}]})";
  std::vector<ConfigProblem> problems;
  const auto passed = restored_config(kSealed, R"({"net": [{"id": "n", "fds": [-1]}]})", problems);
  REQUIRE(passed);
  CHECK_FALSE(passed->net[0].ip);
  CHECK_FALSE(passed->net[0].host_mac);
  const auto named = restored_config(kSealed, R"({"net": [{"id": "n", "tap": "u"}]})", problems);
  REQUIRE(named);
  CHECK(problems.empty());
  CHECK(named->net[0].ip == "192.0.2.1");
  CHECK(named->net[0].host_mac == "02:00:00:00:00:01");
}
