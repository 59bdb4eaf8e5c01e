#include "devices/state_unit.h"

namespace vmmd::devices {

namespace {
constexpr std::string_view kTypePrefix = "type.googleapis.com/";
}

UnitState pack_state(const google::protobuf::MessageLite& message, std::uint32_t version) {
  return UnitState{std::string(kTypePrefix) + message.GetTypeName(), message.SerializeAsString(), version};
}

Status unpack_state(const UnitState& state, std::string_view unit, std::uint32_t newest_version,
                    google::protobuf::MessageLite& message) {
  const std::string expected = std::string(kTypePrefix) + message.GetTypeName();
  if (state.type_url != expected) {
    return fail(ErrorCode::BadRequest, "unit {}: saved state is of type \"{}\", expected {}", unit,
                state.type_url, expected);
  }
  if (state.version > newest_version) {
    return fail(ErrorCode::BadRequest, "unit {}: saved by a newer vmmd (state version {}, this one knows {})",
                unit, state.version, newest_version);
  }
  if (!message.ParseFromString(state.value)) {
    return fail(ErrorCode::BadRequest, "unit {}: saved state of {} bytes does not parse as {}", unit,
                state.value.size(), message.GetTypeName());
  }
  return {};
}

}  // namespace vmmd::devices
