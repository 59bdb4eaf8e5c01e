#include "api/config_json.h"

#include <nlohmann/json.hpp>

#include "api/config_device_fields.h"
#include "api/config_fields.h"
#include "api/json_reader.h"
#include "api/json_writer.h"

namespace vmmd::api {

Result<VmConfig> parse_vm_config(std::string_view json) {
  return read_json<VmConfig>(json);
}

std::string to_json(const VmConfig& config, bool pretty) {
  nlohmann::ordered_json out;
  JsonWriter writer(out);
  fields(writer, config);
  return json_text(out, pretty);
}

}  // namespace vmmd::api
