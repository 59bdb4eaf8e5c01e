#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "api/config.h"
#include "daemon/memory/guest_ram.h"
#include "daemon/vm/device_table.h"
#include "daemon/vm/host_end.h"
#include "devices/storage/raw_file.h"

namespace vmmd::vm {

/// The host's end of virtio-pmem: its file, locked and mapped from vm.create to vm.delete. With
/// discard_writes the mapping is private: what the guest writes is gone with the VM, but in its snapshots,
/// and the file may be shared with other VMs.
class PmemEnd final : public HostEnd {
 public:
  /// Device `index` of `config`, which passed validate() and give_pmem_sizes(). `snapshot_files`: of the
  /// snapshot that the VM comes from; nullptr for none.
  static Result<std::unique_ptr<HostEnd>> open(const api::VmConfig& config, std::size_t index,
                                               SnapshotFiles* snapshot_files = nullptr);
  Result<std::unique_ptr<devices::VirtioDevice>> make_device(const DeviceGlue& glue) override;
  [[nodiscard]] std::vector<devices::GuestRegion> memory() const override;
  /// For the flushes, which may take long.
  [[nodiscard]] std::optional<OwnLoop> own_loop() const override;
  [[nodiscard]] std::string snapshot_file() const override;
  /// Not if the file was cut: what lay beyond is gone, and the guest that touches it is stopped.
  [[nodiscard]] Status check_whole() const override;
  [[nodiscard]] Status save_file(int fd, const std::stop_token& cancel) const override;

 private:
  PmemEnd(api::PmemConfig config, std::uint64_t start, std::unique_ptr<devices::RawFile> file,
          memory::Mapping mapping)
      : config_(std::move(config)), start_(start), file_(std::move(file)), mapping_(std::move(mapping)) {}

  const api::PmemConfig config_;
  const std::uint64_t start_;  // guest physical address
  const std::unique_ptr<devices::RawFile> file_;
  const memory::Mapping mapping_;
};

/// Gives each pmem that names no size that of its file. Once, when a VM is created: from then on it is part
/// of the configuration, because the addresses of whatever comes after it depend on it.
Status give_pmem_sizes(api::VmConfig& config);

}  // namespace vmmd::vm
