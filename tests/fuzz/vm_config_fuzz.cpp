// Any bytes as the body of vm.create. What is accepted must be printed, read again, and be the same; and
// checking it must not do more than look. The same bytes also go through the readers of the other requests
// and of options.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "api/config_json.h"
#include "api/messages.h"
#include "api/options.h"
#include "api/overrides.h"
#include "api/validate.h"

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer's name
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace vmmd;
  using namespace vmmd::api;
  const std::string_view text(reinterpret_cast<const char*>(data), size);

  if (const auto config = parse_vm_config(text)) {
    const std::string printed = to_json(*config);
    const auto again = parse_vm_config(printed);
    require(again.has_value());
    require(*again == *config);
    require(to_json(*again) == printed);
    if (const Status status = validate(*config); !status) require(!status.error().messages.empty());
  } else {
    require(!config.error().messages.empty());
    require(error_from_json(400, to_json(config.error())).messages.size() == config.error().messages.size());
  }

  if (const auto request = parse_snapshot_request(text))
    require(parse_snapshot_request(to_json(*request)).has_value());
  if (const auto request = parse_restore_request(text))
    require(parse_restore_request(to_json(*request)).has_value());
  // The same of a snapshot's config.json and of what a restore changes in it, behind a byte that neither has.
  if (const auto end = text.find('\0'); end != std::string_view::npos) {
    std::vector<ConfigProblem> problems;
    if (const auto config = restored_config(text.substr(0, end), text.substr(end + 1), problems))
      require(parse_vm_config(to_json(*config)).has_value());
    else
      require(!problems.empty());
  }
  (void)parse_cancel_request(text);
  (void)parse_cpus_option(text);
  (void)parse_memory_option(text);
  (void)parse_serial_option(text);
  (void)parse_console_option(text);
  (void)parse_debug_console_option(text);
  (void)parse_restore_option(text);
  return 0;
}
