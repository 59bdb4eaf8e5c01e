#pragma once

#include <cstdint>
#include <string>

namespace vmmd::chardev {

enum class CharMode : std::uint8_t { Off, Null, Tty, Pty, File, Socket };

struct CharConfig {
  CharMode mode = CharMode::Off;
  std::string path;     // File and Socket only
  bool append = false;  // File: go on at its end instead of emptying it
};

}  // namespace vmmd::chardev
