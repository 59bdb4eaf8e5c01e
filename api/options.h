#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "api/config.h"
#include "api/types.h"
#include "base/result.h"

namespace vmmd::api {

// Cloud Hypervisor's command line forms: `key=value,key=value`, lists in [ ], values with commas in " ".
// Errors are BadRequest and name the key. What they return is not validated; see validate().

/// `boot=2,max=2,topology=1:2:1:1,max_phys_bits=46,affinity=[0@[0-1],1@[1,3]],features=amx,nested=on,
/// kvm_hyperv=off,core_scheduling=vm,profile=host`. boot or max alone means both.
[[nodiscard]] Result<CpusConfig> parse_cpus_option(std::string_view text);

/// `size=512M,mergeable=on,shared=on,hugepages=on,hugepage_size=2M,prefault=on,reserve=on,thp=off,file=/x`
/// and Cloud Hypervisor's hotplug_method, hotplug_size, hotplugged_size.
[[nodiscard]] Result<MemoryConfig> parse_memory_option(std::string_view text);

/// `off|null|tty|pty|file=PATH|socket=PATH`
[[nodiscard]] Result<SerialConfig> parse_serial_option(std::string_view text);
/// As serial, with `iommu=on`.
[[nodiscard]] Result<ConsoleConfig> parse_console_option(std::string_view text);
/// `off|null|tty|pty|file=PATH`, with `iobase=0xe9`.
[[nodiscard]] Result<DebugConsoleConfig> parse_debug_console_option(std::string_view text);

/// `pc=on`. Cloud Hypervisor's other keys of --platform are not built; the API names them.
[[nodiscard]] Result<PlatformConfig> parse_platform_option(std::string_view text);

/// `size=256M,deflate_on_oom=on,free_page_reporting=on,id=`
[[nodiscard]] Result<BalloonConfig> parse_balloon_option(std::string_view text);

/// Cloud Hypervisor's `tap=,ip=,mask=,mac=,host_mac=,mtu=,num_queues=,queue_size=,fd=[3,4],offload_tso=on,
/// offload_ufo=on,offload_csum=on,bw_size=,bw_one_time_burst=,bw_refill_time=,ops_size=,ops_one_time_burst=,
/// ops_refill_time=,id=,…`, and `passt=SOCKET`.
[[nodiscard]] Result<NetConfig> parse_net_option(std::string_view text);

/// Cloud Hypervisor's `path=,readonly=on,direct=on,num_queues=,queue_size=,serial=,rate_limit_group=,
/// queue_affinity=[0@[0-1]],image_type=raw,sparse=off,bw_size=,…,ops_size=,…,id=,…`, and
/// `overlay=memory|FILE,overlay_limit=1G,on_enospc=error|pause`.
[[nodiscard]] Result<DiskConfig> parse_disk_option(std::string_view text);
/// `id=,bw_size=,…,ops_size=,…`
[[nodiscard]] Result<RateLimitGroupConfig> parse_rate_limit_group_option(std::string_view text);

/// `file=PATH,size=64M,discard_writes=on,id=,…`
[[nodiscard]] Result<PmemConfig> parse_pmem_option(std::string_view text);

/// `src=PATH,id=,…`
[[nodiscard]] Result<RngConfig> parse_rng_option(std::string_view text);

/// `cid=3,socket=PATH,id=,…`
[[nodiscard]] Result<VsockConfig> parse_vsock_option(std::string_view text);

/// `source_url=file:///dir,memory_restore_mode=cow|copy|shared,prefault=on,resume=on,verify=none|lazy|full,
/// cpu_check=strict|ignore,identity=new|keep,clock=realtime|continue,memory_size=512M,vcpus=2`.
[[nodiscard]] Result<RestoreRequest> parse_restore_option(std::string_view text);

/// "4096", "512K", "1M", "2G", "1T": binary multiples, in bytes.
[[nodiscard]] Result<std::uint64_t> parse_size(std::string_view text);
/// on, off, true, false.
[[nodiscard]] Result<bool> parse_toggle(std::string_view text);

/// A directory as whoever started this process names it: a relative path is one of its working directory,
/// which the other end of a socket does not share, so it becomes absolute. URLs stay as they are.
[[nodiscard]] Result<std::string> directory_from_user(std::string_view text);

/// "file:///dir" as a path; a plain absolute path is taken as it is. Other schemes are refused.
[[nodiscard]] Result<std::filesystem::path> path_from_file_url(std::string_view url);

}  // namespace vmmd::api
