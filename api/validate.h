#pragma once

#include "api/config.h"
#include "base/result.h"

namespace vmmd::api {

/// A restored VM needs no kernel: its payload is looked at when it boots again.
enum class ValidateFor { Boot, Restore };

/// Everything vm.create checks before it says yes: ranges and alignment, combinations, unique ids and paths,
/// files that exist and can be read, host CPUs that exist. All mistakes are listed, one message each,
/// starting with a JSON pointer. BadRequest where anything is wrong; else Conflict where an id or a path is
/// there twice; else NotSupported where a feature of the schema is asked for that is not built here.
[[nodiscard]] Status validate(const VmConfig& config, ValidateFor purpose = ValidateFor::Boot);

}  // namespace vmmd::api
