#include "remote/shell.h"

#include <doctest/doctest.h>

using namespace vmmd;
using namespace vmmd::remote;

using Words = std::vector<std::string>;
using Lines = std::vector<Words>;
using Kind = ShellAction::Kind;

namespace {

Lines split(std::string_view text) {
  auto lines = split_shell_line(text);
  REQUIRE(lines.has_value());
  return *lines;
}

Words run(const Words& words) {
  const ShellAction action = resolve_shell_line(words);
  REQUIRE(action.kind == Kind::Run);
  return action.words;
}

}  // namespace

TEST_CASE("a line is words; ';' and the end of a line start another") {
  CHECK(split("pause") == Lines{{"pause"}});
  CHECK(split("  snap   /a ; r\nq ;;") == Lines{{"snap", "/a"}, {"r"}, {"q"}});
  CHECK(split("").empty());
  CHECK(split(" # a comment ; not run\npause") == Lines{{"pause"}});
}

TEST_CASE("quotes and backslashes keep what is between together") {
  CHECK(split(R"(i 'a; b' "c \"d\" \e" f\ g "")") == Lines{{"i", "a; b", "c \"d\" \\e", "f g", ""}});
  CHECK(split("a'b'c") == Lines{{"abc"}});
  CHECK(split("a#b") == Lines{{"a#b"}});
}

TEST_CASE("a quote that never ends is refused") {
  CHECK_FALSE(split_shell_line("i 'abc").has_value());
  CHECK_FALSE(split_shell_line("i \"abc\\\"").has_value());
}

TEST_CASE("OpenVMM's words and their short forms are our commands") {
  CHECK(run({"pause"}) == Words{"pause"});
  CHECK(run({"p"}) == Words{"pause"});
  CHECK(run({"r"}) == Words{"resume"});
  CHECK(run({"n"}) == Words{"nmi"});
  CHECK(run({"R"}) == Words{"reboot"});
  CHECK(run({"reset"}) == Words{"reboot"});
  CHECK(run({"x"}) == Words{"info"});
  CHECK(run({"I"}) == Words{"console"});
  CHECK(run({"i", "a", "b"}) == Words{"input", "a", "b"});
}

TEST_CASE("save-snapshot pauses the VM, as OpenVMM's, and takes the folder from here") {
  CHECK(run({"snap", "/s/one"}) == Words{"snapshot", "/s/one", "--pause"});
  CHECK(run({"save-snapshot", "file:///s"}) == Words{"snapshot", "file:///s", "--pause"});
  const Words relative = run({"snap", "one"});
  CHECK(relative[1].starts_with('/'));
  CHECK(relative[1].ends_with("/one"));
  CHECK(resolve_shell_line({"snap"}).kind == Kind::Refuse);
}

TEST_CASE("shutdown asks the guest unless told otherwise") {
  CHECK(run({"shutdown"}) == Words{"power-button"});
  CHECK(run({"shutdown", "-f"}) == Words{"shutdown"});
  CHECK(run({"shutdown", "-r"}) == Words{"reboot"});
  CHECK(resolve_shell_line({"shutdown", "-h"}).kind == Kind::Refuse);
}

TEST_CASE("every other word is a command of vmm-remote") {
  CHECK(run({"snapshot", "list", "/s"}) == Words{"snapshot", "list", "/s"});
  CHECK(run({"help", "wait"}) == Words{"wait", "--help"});
}

TEST_CASE("quit and help are the shell's own, and it does not nest") {
  for (const char* word : {"quit", "q", "exit"}) CHECK(resolve_shell_line({word}).kind == Kind::Quit);
  for (const char* word : {"help", "h", "?"}) CHECK(resolve_shell_line({word}).kind == Kind::Help);
  CHECK(resolve_shell_line({"shell"}).kind == Kind::Refuse);
}

TEST_CASE("what OpenVMM has and we do not is said by name") {
  const ShellAction action = resolve_shell_line({"psr"});
  CHECK(action.kind == Kind::Refuse);
  CHECK(action.message.find("psr") != std::string::npos);
}
