#pragma once

#include <cstdint>
#include <mutex>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "devices/interrupt.h"
#include "devices/pci/capabilities.h"
#include "proto/state.pb.h"

namespace vmmd::devices {

/// MSI-X of one function (PCI Local Bus 3.0, 6.8.2): table, pending bits, masks. Thread-safe: the device's
/// loop signals while vCPUs program the table; its lock is taken after the function's, before the sink's.
///
/// A function that is not bus master sends nothing, so that counts as the function mask: what it has to say
/// stays pending. Disabling MSI-X forgets what is pending.
class Msix {
 public:
  static constexpr unsigned kMaxVectors = 2048;
  static constexpr unsigned kEntrySize = 16;  // bytes of table for each vector

  /// Where table and pending bits are: offsets into memory BAR `bar`, multiples of 8.
  struct Place {
    unsigned bar = 0;
    std::uint32_t table = 0;
    std::uint32_t pending = 0;
  };

  /// `vectors`: 1 to kMaxVectors. The sink outlives this.
  Msix(unsigned vectors, MsiSink& sink);

  /// Adds the capability; its offset. update() wants to be called after each write to `space`.
  unsigned add_capability(CapabilityChain& chain, ConfigSpace& space, Place place);
  /// Takes message control and bus mastery over from `space`, and sends what may be sent now.
  void update(const ConfigSpace& space);

  /// The guest's accesses, naturally aligned. Reads take every width; writes of less than 4 bytes are
  /// undefined (6.8.2) and dropped here, as are those to the pending bits. Beyond the end: zero.
  [[nodiscard]] std::uint64_t read_table(std::uint64_t offset, unsigned width) const;
  void write_table(std::uint64_t offset, unsigned width, std::uint64_t value);
  [[nodiscard]] std::uint64_t read_pending(std::uint64_t offset, unsigned width) const;

  /// Whether the guest uses MSI-X, so INTx stays quiet.
  [[nodiscard]] bool enabled() const;
  /// Sends the vector's message, or keeps it pending while masked. Nothing while MSI-X is off or for a vector
  /// that does not exist.
  void signal(unsigned vector);
  [[nodiscard]] unsigned vectors() const { return static_cast<unsigned>(entries_.size()); }
  /// Messages sent since this object was made.
  [[nodiscard]] std::int64_t sent() const;

  void save(state::Msix& message) const;
  /// `unit` is for the message.
  [[nodiscard]] Status check(const state::Msix& message, std::string_view unit) const;
  /// Takes over what check() passed; then update().
  void restore(const state::Msix& message);
  /// Power-on: all masked, nothing pending, off.
  void reset();

 private:
  struct Entry {
    MsiMessage message;
    bool masked = true;
    bool pending = false;
  };
  [[nodiscard]] std::uint32_t read_word(std::uint64_t index) const;
  void write_word(std::uint64_t index, std::uint32_t value);
  void deliver(Entry& entry);

  MsiSink& sink_;
  unsigned capability_ = 0;  // offset; 0: none yet
  mutable std::mutex mutex_;
  std::vector<Entry> entries_;
  bool enabled_ = false;  // these two follow from the configuration space
  bool masked_ = false;
  std::int64_t sent_ = 0;
};

}  // namespace vmmd::devices
