#include "daemon/log.h"

#include <filesystem>
#include <memory>
#include <system_error>

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

namespace vmmd {

namespace {

// Made by open_log() at the start of main, before any other thread; used by all of them.
std::shared_ptr<spdlog::logger>& logger() {
  static std::shared_ptr<spdlog::logger> instance;
  return instance;
}

spdlog::level::level_enum to_spdlog(LogLevel level) {
  switch (level) {
    case LogLevel::Error:
      return spdlog::level::err;
    case LogLevel::Warning:
      return spdlog::level::warn;
    case LogLevel::Info:
      return spdlog::level::info;
    case LogLevel::Debug:
      return spdlog::level::debug;
  }
  return spdlog::level::off;
}

}  // namespace

Status open_log(int verbosity, const std::string& path) {
  try {
    spdlog::sink_ptr sink;
    if (path.empty()) {
      sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
    } else {
      // spdlog would make missing directories, and a typo a tree of them.
      const auto folder = std::filesystem::path(path).parent_path();
      std::error_code ignored;
      if (!folder.empty() && !std::filesystem::is_directory(folder, ignored)) {
        return fail(ErrorCode::BadRequest, "cannot open the log file {}: there is no directory {}", path,
                    folder.native());
      }
      sink = std::make_shared<spdlog::sinks::basic_file_sink_mt>(path);
    }
    logger() = std::make_shared<spdlog::logger>("vmmd", std::move(sink));
  } catch (const spdlog::spdlog_ex& error) {
    return fail(ErrorCode::BadRequest, "cannot open the log file {}: {}", path, error.what());
  }
  logger()->set_pattern("%Y-%m-%dT%H:%M:%S.%e %l %v");
  logger()->set_level(verbosity <= 0   ? spdlog::level::warn
                      : verbosity == 1 ? spdlog::level::info
                                       : spdlog::level::debug);
  logger()->flush_on(spdlog::level::info);
  return {};
}

bool log_enabled(LogLevel level) {
  return logger() && logger()->should_log(to_spdlog(level));
}

void write_log(LogLevel level, std::string_view message) {
  logger()->log(to_spdlog(level), "{}", message);
}

}  // namespace vmmd
