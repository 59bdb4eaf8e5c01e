#include "api/validate_pmem.h"

#include <fcntl.h>

#include <string>

#include "api/host_files.h"
#include "base/file.h"

namespace vmmd::api {

namespace {

constexpr std::uint64_t kMultiple = std::uint64_t{2} << 20;  // bytes: what Linux can map at once

Result<std::uint64_t> length_of(const std::string& path) {
  VMMD_ASSIGN(const UniqueFd file, open_file(path, O_RDONLY | O_NONBLOCK));
  return file_size(file.get(), path);
}

}  // namespace

void check_pmem(const VmConfig& config, Findings& findings) {
  for (std::size_t i = 0; i < config.pmem.size(); ++i) {
    const PmemConfig& pmem = config.pmem[i];
    const std::string at = fmt::format("/pmem/{}", i);
    const auto length = length_of(pmem.file);
    if (!length) {
      findings.add(ErrorCode::BadRequest, at + "/file", "{}", length.error().to_string());
      continue;
    }
    if (pmem.size.value_or(*length) > *length) {
      findings.add(ErrorCode::BadRequest, at + "/size", "\"{}\" has {} bytes, fewer than {}", pmem.file,
                   *length, *pmem.size);
      continue;
    }
    const std::uint64_t size = pmem.size.value_or(*length);
    if (size == 0 || size % kMultiple != 0) {
      findings.add(ErrorCode::BadRequest, pmem.size ? at + "/size" : at + "/file",
                   "{} bytes are not a positive multiple of 2 MiB", size);
    }
  }
}

}  // namespace vmmd::api
