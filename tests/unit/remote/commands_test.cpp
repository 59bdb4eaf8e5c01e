#include <set>

#include <doctest/doctest.h>

#include "api/endpoints.h"
#include "remote/command.h"

using namespace vmmd;
using namespace vmmd::remote;

TEST_CASE("every command has a name of its own, a summary and an example that calls it") {
  std::set<std::string_view> names;
  for (const Command& command : commands()) {
    CAPTURE(command.name);
    CHECK(names.insert(command.name).second);
    CHECK_FALSE(command.summary.empty());
    CHECK(command.example.find(command.name) != std::string_view::npos);
  }
}

TEST_CASE("every request goes to an endpoint that the server has, by its verb") {
  for (const Command& command : commands()) {
    CAPTURE(command.name);
    const bool is_request = !command.endpoint.empty();
    CHECK((is_request || command.run != nullptr || command.program != nullptr));
    if (!is_request) continue;
    const std::string target = std::string(api::kApiRoot) + std::string(command.endpoint);
    const api::Endpoint* endpoint = api::find_endpoint(target);
    REQUIRE(endpoint != nullptr);
    CHECK(endpoint->verb == command.verb);
  }
}

TEST_CASE("every endpoint has a command") {
  std::set<std::string_view> reached = {"events"};  // by commands that do more than ask
  for (const Command& command : commands()) reached.insert(command.endpoint);
  for (const api::Endpoint& endpoint : api::endpoints()) {
    CAPTURE(endpoint.path);
    CHECK(reached.contains(endpoint.path));
  }
}

TEST_CASE("no argument by place follows one that takes all the rest") {
  for (const Command& command : commands()) {
    bool all_taken = false;
    for (const Argument& argument : command.arguments) {
      CAPTURE(command.name);
      CAPTURE(argument.name);
      const bool by_place = !argument.name.starts_with("-");
      CHECK(by_place ==
            (argument.kind == Argument::Kind::Positional || argument.kind == Argument::Kind::Words));
      if (by_place) CHECK_FALSE(all_taken);
      all_taken = all_taken || argument.kind == Argument::Kind::Words;
    }
  }
}

TEST_CASE("a word above others is known as such") {
  CHECK(has_subcommands("snapshot"));
  CHECK_FALSE(has_subcommands("snap"));
  CHECK_FALSE(has_subcommands("pause"));
  REQUIRE(find_command("snapshot list") != nullptr);
  CHECK_FALSE(find_command("snapshot list")->needs_daemon);
  CHECK(find_command("list") == nullptr);
}
