#include "api/endpoints.h"

#include <set>
#include <string_view>

#include <doctest/doctest.h>

namespace vmmd::api {

TEST_CASE("no path is served twice, and each says what it is for") {
  std::set<std::string_view> paths;
  for (const Endpoint& endpoint : endpoints()) {
    CHECK(paths.insert(endpoint.path).second);
    CHECK_FALSE(endpoint.what.empty());
  }
}

TEST_CASE("a command's path is its name") {
  for (const Endpoint& endpoint : endpoints()) {
    if (endpoint.action == Action::RunCommand) CHECK(to_string(endpoint.command) == endpoint.path);
  }
}

TEST_CASE("what is only read is GET, the rest PUT") {
  std::set<std::string_view> read;
  for (const Endpoint& endpoint : endpoints()) {
    if (endpoint.verb == Verb::Get) read.insert(endpoint.path);
  }
  CHECK(read == std::set<std::string_view>{"vmm.ping", "vm.info", "vm.counters", "events"});
}

TEST_CASE("an endpoint is found by its whole path only") {
  REQUIRE(find_endpoint("/api/v1/vm.info") != nullptr);
  CHECK(find_endpoint("/api/v1/vm.info")->action == Action::Info);
  CHECK(find_endpoint("/api/v1/vm.info?a=/b") == find_endpoint("/api/v1/vm.info"));
  CHECK(find_endpoint("http://localhost:80/api/v1/vm.info") == find_endpoint("/api/v1/vm.info"));
  for (const std::string_view target :
       {"", "/", "/api/v1/", "/api/v1", "vm.info", "/api/v1/vm.inf", "/api/v1/vm.infos", "/api/v1/vm.info/",
        "/api/v1//vm.info", "/API/v1/vm.info", "http://x"}) {
    CHECK(find_endpoint(target) == nullptr);
  }
}

TEST_CASE("a query's value is found by its whole name") {
  CHECK(query_value("/e?since=5", "since") == "5");
  CHECK(query_value("/e?a=1&since=22&b=3", "since") == "22");
  CHECK(query_value("/e?xsince=5&since2=6&since", "since").empty());
  CHECK(query_value("/e?since=", "since").empty());
  CHECK(query_value("/since=5", "since").empty());
  CHECK(query_value("/e?a#?since=5", "since").empty());
}

}  // namespace vmmd::api
