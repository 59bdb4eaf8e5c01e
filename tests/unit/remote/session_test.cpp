#include "remote/session.h"

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

using namespace vmmd;
using namespace vmmd::remote;
using nlohmann::json;

TEST_CASE("errors are shown as ch-remote's chain") {
  CHECK(error_chain({ErrorCode::WrongState, {"vm.pause failed", "no\nway"}}) ==
        "Error: vmm-remote exited with the following chain of errors:\n"
        "  0: vm.pause failed\n"
        "  1: no\n     way\n");
}

TEST_CASE("an error's text cannot move the terminal's cursor") {
  const std::string text = error_chain({ErrorCode::BadRequest,
                                        {"a\x1B[2J",
                                         "b\xC2\x9B"
                                         "1A\nc"}});
  CHECK(text.find("  0: a?[2J\n  1: b?1A\n     c\n") != std::string::npos);
}

TEST_CASE("errors for scripts have code, name and all messages") {
  const json object = json::parse(error_object("pause", {ErrorCode::WrongState, {"a", "b \"c\""}}, ""));
  CHECK(object == json{{"ok", false},
                       {"command", "pause"},
                       {"error", {{"code", 405}, {"name", "WrongState"}, {"messages", {"a", "b \"c\""}}}}});
}

TEST_CASE("an error keeps what was found nevertheless") {
  const json object = json::parse(error_object("verify", {ErrorCode::BadRequest, {"a"}}, "{\"n\":17}"));
  CHECK(object["result"] == json{{"n", 17}});
}

TEST_CASE("success has the answer, or null") {
  CHECK(json::parse(success_object("pause", "")) ==
        json{{"ok", true}, {"command", "pause"}, {"result", nullptr}});
  CHECK(json::parse(success_object("ping", "{\"pid\":4711}"))["result"]["pid"] == 4711);
}

TEST_CASE("an answer that is not JSON, or not text, still makes an object") {
  CHECK(json::parse(success_object("ping", "pong"))["result"] == "pong");
  CHECK(json::parse(error_object("x", {ErrorCode::Internal, {"bad \xff byte"}}, ""))["ok"] == false);
}

TEST_CASE("a mistake in the command line is an object, too") {
  const json object = json::parse(usage_object("wait", "--state is required"));
  CHECK(object["error"]["name"] == "Usage");
  CHECK(object["error"]["messages"] == json{"--state is required"});
}
