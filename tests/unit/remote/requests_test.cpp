#include "remote/requests.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

using namespace vmmd;
using namespace vmmd::remote;
using nlohmann::json;

namespace {

Arguments given(std::initializer_list<std::pair<std::string_view, std::string>> values) {
  Arguments arguments;
  for (const auto& [name, value] : values) arguments.add(name, value);
  return arguments;
}

json body_of(const Result<RequestBody>& body) {
  REQUIRE(body.has_value());
  return json::parse(body->json);
}

struct TempFile {
  explicit TempFile(const std::string& text) {
    char name[] = "/tmp/vmm-remote-test-XXXXXX";
    const int fd = ::mkstemp(name);
    REQUIRE(fd >= 0);
    ::close(fd);
    path = name;
    std::ofstream(path) << text;
  }
  ~TempFile() { std::filesystem::remove(path); }
  std::string path;
};

}  // namespace

TEST_CASE("a snapshot's options become fields of the request") {
  const json body = body_of(snapshot_body(given({{"destination_url", "file:///snapshots/one"},
                                                 {"--mode", "LINK"},
                                                 {"--pause", "true"},
                                                 {"--label", "app=web"},
                                                 {"--label", "note=a=b"}})));
  CHECK(body["destination_url"] == "file:///snapshots/one");
  CHECK(body["mode"] == "link");
  CHECK(body["pause"] == true);
  CHECK(body["resume"] == false);
  CHECK(body["labels"] == json{{"app", "web"}, {"note", "a=b"}});
}

TEST_CASE("a snapshot is cancelled when we are gone") {
  CHECK(body_of(snapshot_body(given({{"destination_url", "/s"}})))["cancel_on_disconnect"] == true);
}

TEST_CASE("a label without a name or a value, and one given twice, are refused") {
  for (const char* label : {"app", "=web", ""}) {
    CAPTURE(label);
    CHECK_FALSE(snapshot_body(given({{"destination_url", "/s"}, {"--label", label}})).has_value());
  }
  const auto twice =
      snapshot_body(given({{"destination_url", "/s"}, {"--label", "a=1"}, {"--label", "a=2"}}));
  REQUIRE_FALSE(twice.has_value());
  CHECK(twice.error().to_string() == "--label a is given twice");
}

TEST_CASE("a path is relative to our working directory, which is not the daemon's") {
  const std::string here = std::filesystem::current_path().native();
  CHECK(body_of(snapshot_body(given({{"destination_url", "./one"}})))["destination_url"] == here + "/one");
  CHECK(body_of(snapshot_body(given({{"destination_url", "a/one"}})))["destination_url"] == here + "/a/one");
  const auto source = [](const char* text) {
    return body_of(restore_body(given({{"restore_config", text}})))["source_url"];
  };
  CHECK(source("one") == here + "/one");
  CHECK(source("./a=b") == here + "/a=b");
  CHECK(source("../one,resume=on") == here + "/../one");
  CHECK(source("source_url=one") == here + "/one");
}

TEST_CASE("a destination is a URL or a path, every single word a mistake") {
  CHECK(check_snapshot(given({{"destination_url", "file:///x"}})).empty());
  CHECK(check_snapshot(given({{"destination_url", "/x"}})).empty());
  CHECK(check_snapshot(given({{"destination_url", "./x"}})).empty());
  CHECK(check_snapshot(given({{"destination_url", ".."}})).empty());        // the daemon's to refuse, too
  CHECK(check_snapshot(given({{"destination_url", "http://x"}})).empty());  // the daemon's to refuse
  CHECK(check_snapshot(given({{"destination_url", "lisst"}})).find("did you mean `snapshot list`?") !=
        std::string::npos);
  CHECK_FALSE(check_snapshot(given({{"destination_url", "somewhere"}})).empty());
}

TEST_CASE("restore takes ch-remote's form") {
  const json body =
      body_of(restore_body(given({{"restore_config", "source_url=file:///s,prefault=on,resume=true"}})));
  CHECK(body == json{{"source_url", "file:///s"}, {"prefault", true}, {"resume", true}});
}

TEST_CASE("restore takes the source alone") {
  CHECK(body_of(restore_body(given({{"restore_config", "/s/one"}}))) == json{{"source_url", "/s/one"}});
  CHECK(body_of(restore_body(given({{"restore_config", "file:///s,resume=on"}}))) ==
        json{{"source_url", "file:///s"}, {"resume", true}});
}

TEST_CASE("overrides come as JSON or from a file") {
  const json wanted = {{"serial", {{"mode", "Null"}}}};
  const auto with = [](const std::string& overrides) {
    return restore_body(given({{"restore_config", "/s"}, {"--overrides", overrides}}));
  };
  CHECK(body_of(with(wanted.dump()))["overrides"] == wanted);
  const TempFile file(wanted.dump());
  CHECK(body_of(with(file.path))["overrides"] == wanted);
  const auto missing = with("/nowhere/at/all");
  REQUIRE_FALSE(missing.has_value());
  CHECK(missing.error().messages.front() == "--overrides");
}

TEST_CASE("a mistake in restore's keys names the key") {
  const auto body = restore_body(given({{"restore_config", "source_url=/s,resum=on"}}));
  REQUIRE_FALSE(body.has_value());
  CHECK(body.error().to_string().find("did you mean resume?") != std::string::npos);
}

TEST_CASE("create sends the file as it is") {
  const TempFile file("{ \"payload\": {} }\n");
  const auto body = create_body(given({{"path", file.path}}));
  REQUIRE(body.has_value());
  CHECK(body->json == "{ \"payload\": {} }\n");
}

TEST_CASE("a configuration larger than the daemon takes is not sent") {
  const TempFile file(std::string((4 << 20) + 1, ' '));
  const auto body = create_body(given({{"path", file.path}}));
  REQUIRE_FALSE(body.has_value());
  CHECK(body.error().code == ErrorCode::TooLarge);
}

TEST_CASE("a count is digits and nothing else") {
  CHECK(parse_count("0") == 0);
  CHECK(parse_count("18446744073709551615") == 18446744073709551615U);
  for (const char* text : {"", "-1", "+1", "1x", " 1", "18446744073709551616"}) {
    CAPTURE(text);
    CHECK_FALSE(parse_count(text).has_value());
  }
}
