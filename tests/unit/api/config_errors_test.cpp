#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "api/config_json.h"
#include "api/edit_distance.h"
#include "api/json_reader.h"

using namespace vmmd;
using namespace vmmd::api;

namespace {

std::vector<std::string> mistakes_in(const std::string& json, ErrorCode code = ErrorCode::BadRequest) {
  const auto config = parse_vm_config(json);
  if (config) return {"no mistake"};
  CHECK(config.error().code == code);
  return config.error().messages;
}

using Messages = std::vector<std::string>;

}  // namespace

TEST_CASE("wrong types and ranges name the field by its JSON pointer") {
  struct Case {
    const char* json;
    std::string message;
  };
  const Case cases[] = {
      {R"([])", "(root): expected an object, got a list"},
      {R"(null)", "(root): expected an object, got null"},
      {R"({})", "/payload: missing"},
      {R"({"payload": null})", "/payload: expected an object, got null"},
      {R"({"payload": "x"})", "/payload: expected an object, got a string"},
      {R"({"payload": {"kernel": 1}})", "/payload/kernel: expected a string, got a number"},
      {R"({"payload": {}, "memory": {}})", "/memory/size: missing"},
      {R"({"payload": {}, "memory": null})", "/memory: expected an object, got null"},
      {R"({"payload": {}, "memory": {"size": "1G"}})",
       "/memory/size: expected an unsigned integer, got a string"},
      {R"({"payload": {}, "memory": {"size": -1}})",
       "/memory/size: expected an unsigned integer, got a negative number"},
      {R"({"payload": {}, "memory": {"size": 1.0}})",
       "/memory/size: expected an unsigned integer, got a number that is no 64-bit integer"},
      {R"({"payload": {}, "memory": {"size": 1e3}})",
       "/memory/size: expected an unsigned integer, got a number that is no 64-bit integer"},
      {R"({"payload": {}, "memory": {"size": 18446744073709551616}})",
       "/memory/size: expected an unsigned integer, got a number that is no 64-bit integer"},
      {R"({"payload": {}, "memory": {"size": 4096, "shared": 1}})",
       "/memory/shared: expected true or false, got a number"},
      {R"({"payload": {}, "memory": {"size": 4096, "thp": null}})",
       "/memory/thp: expected true or false, got null"},
      {R"({"payload": {}, "cpus": {"boot_vcpus": 0}})", "/cpus/boot_vcpus: 0 is not in the range 1 to 255"},
      {R"({"payload": {}, "cpus": {"boot_vcpus": 256}})",
       "/cpus/boot_vcpus: 256 is not in the range 1 to 255"},
      {R"({"payload": {}, "cpus": {"affinity": {}}})", "/cpus/affinity: expected a list, got an object"},
      {R"({"payload": {}, "cpus": {"affinity": [{"vcpu": 0, "host_cpus": [0, true]}]}})",
       "/cpus/affinity/0/host_cpus/1: expected an unsigned integer, got a boolean"},
      {R"({"payload": {}, "cpus": {"topology": {"threads_per_core": 1, "cores_per_die": 1, "packages": 1}}})",
       "/cpus/topology/dies_per_package: missing"},
      {R"({"payload": {}, "serial": {"mode": "tty"}})",
       R"(/serial/mode: "tty" is none of "Off", "Pty", "Tty", "File", "Socket", "Null")"},
      {R"({"payload": {}, "serial": {}})", "/serial/mode: missing"},
      {R"({"payload": {}, "disks": [{}, {"pci_device_id": 32}]})",
       "/disks/1/pci_device_id: 32 is not in the range 0 to 31"},
      {R"({"payload": {}, "debug_console": {"mode": "Off", "iobase": 65536}})",
       "/debug_console/iobase: 65536 is not in the range 0 to 65535"},
      {R"({"payload": {}, "net": [{"fds": [2147483648]}]})",
       "/net/0/fds/0: 2147483648 is not in the range -2147483648 to 2147483647"},
      {R"({"payload": {}, "net": [{"fds": [18446744073709551615]}]})",
       "/net/0/fds/0: 18446744073709551615 is not in the range -2147483648 to 2147483647"},
      {R"({"payload": {}, "net": [{"fds": [1.5]}]})",
       "/net/0/fds/0: expected an integer, got a number that is no 64-bit integer"},
      {R"({"payload": {}, "vsock": {"cid": 2, "socket": "/s"}})",
       "/vsock/cid: 2 is not in the range 3 to 4294967294"},
  };
  for (const Case& c : cases) {
    const auto messages = mistakes_in(c.json);
    REQUIRE(messages.size() == 1);
    CHECK(messages[0] == c.message);
  }
}

TEST_CASE("all mistakes are told at once") {
  CHECK(mistakes_in(R"({"cpus": {"boot_vcpus": "2"}, "memory": {"size": -5}, "x": 1})") ==
        Messages{"/cpus/boot_vcpus: expected an unsigned integer, got a string",
                 "/memory/size: expected an unsigned integer, got a negative number", "/payload: missing",
                 "/x: unknown field"});
}

TEST_CASE("an unknown field is refused wherever it is, with the name that was probably meant") {
  CHECK(mistakes_in(R"({"payload": {}, "cpus": {"boot_vcpu": 2}})") ==
        Messages{"/cpus/boot_vcpu: unknown field; did you mean \"boot_vcpus\"?"});
  CHECK(mistakes_in(R"({"payload": {}, "nonsense": 2})") == Messages{"/nonsense: unknown field"});
  CHECK(mistakes_in(R"({"payload": {}, "disks": [{"a/b~c": 2}]})") ==
        Messages{"/disks/0/a~1b~0c: unknown field"});
}

TEST_CASE("a key that comes twice is refused, also where the second value is the same") {
  CHECK(mistakes_in(R"({"payload": {}, "memory": {"size": 4096, "size": 4096}})") ==
        Messages{"/memory/size: given twice"});
  CHECK(mistakes_in(R"({"payload": {}, "net": [{}, {"tap": "a", "\u0074ap": "b"}]})") ==
        Messages{"/net/1/tap: given twice"});
}

TEST_CASE("equal keys of different objects are no duplicates") {
  CHECK(parse_vm_config(
      R"({"payload": {"kernel": "k"}, "rng": {"src": "a", "id": "x"}, "net": [{"id": "y"}]})"));
}

TEST_CASE("what is not JSON is refused with the place") {
  CHECK(mistakes_in("") == Messages{"(root): empty: a JSON object is expected"});
  CHECK(mistakes_in(" \r\n\t") == Messages{"(root): empty: a JSON object is expected"});
  CHECK(mistakes_in("{")[0].starts_with("(root): not valid JSON at byte 2: unexpected end of input"));
  CHECK(mistakes_in(R"({"payload": {},})")[0].starts_with("(root): not valid JSON at byte 16: "));
  CHECK(mistakes_in(R"({"payload": {}} x)")[0].starts_with("(root): not valid JSON at byte 17: "));
  CHECK(mistakes_in("{\"payload\": {\"kernel\": \"\xff\"}}") ==
        Messages{"(root): not valid JSON at byte 25: invalid string: ill-formed UTF-8 byte"});
  CHECK(mistakes_in("{'payload': {}}").size() == 1);
  CHECK(mistakes_in(R"({"payload": {}, "memory": {"size": NaN}})").size() == 1);
}

TEST_CASE("a string with a NUL in it is refused, because a path would end there") {
  CHECK(mistakes_in(R"({"payload": {"kernel": "/k\u0000x"}})") ==
        Messages{"/payload/kernel: a string must not contain a NUL character"});
}

TEST_CASE("nesting is bounded before anything is built") {
  const std::string deep(1'000'000, '[');
  const auto messages = mistakes_in("{\"payload\": " + deep);
  REQUIRE(messages.size() == 1);
  CHECK(messages[0].ends_with("/0: nested too deeply"));
}

TEST_CASE("length, number of values and length of strings are bounded") {
  const std::string long_document(JsonDocument::kMaxLength + 1, ' ');
  CHECK(mistakes_in(long_document, ErrorCode::TooLarge).size() == 1);
  std::string many = "[0";
  for (std::size_t i = 0; i < JsonDocument::kMaxValues; ++i) many += ",0";
  CHECK(mistakes_in(many + "]")[0].ends_with("too many values in one document"));
  const std::string long_text(JsonDocument::kMaxString + 1, 'x');
  CHECK(mistakes_in("{\"payload\": {\"cmdline\": \"" + long_text + "\"}}") ==
        Messages{"/payload/cmdline: the string is too long"});
}

TEST_CASE("a flood of mistakes is cut off, and so are the strange names in it") {
  std::string json = "{\"payload\": {}";
  for (int i = 0; i < 1000; ++i) json += ", \"" + std::string(200, 'n') + std::to_string(i) + "\": 0";
  const auto messages = mistakes_in(json + "}");
  CHECK(messages.size() == JsonMistakes::kLimit);
  CHECK(messages[0].size() < 100);
}

TEST_CASE("a near name is found, a far one is not") {
  CHECK(closest("kernl", {"firmware", "kernel"}) == "kernel");
  CHECK(closest("xy", {"id", "on"}).empty());
  CHECK(closest(std::string(100'000, 'a'), {"kernel"}).empty());
}
