#include <filesystem>
#include <string>

#include <doctest/doctest.h>

#include "api/option_text.h"
#include "api/options.h"

using namespace vmmd;
using namespace vmmd::api;

namespace {

template <class T>
std::string error_of(const Result<T>& result) {
  return result ? "accepted" : result.error().to_string();
}

}  // namespace

TEST_CASE("--cpus knows all of Cloud Hypervisor's keys") {
  const auto cpus = parse_cpus_option(
      "boot=2,max=4,topology=2:1:1:2,kvm_hyperv=on,max_phys_bits=40,affinity=[0@[0-1,3],1@[1],2@5],features="
      "amx,"
      "nested=off,core_scheduling=vcpu,profile=host");
  REQUIRE_MESSAGE(cpus, error_of(cpus));
  CpusConfig expected;
  expected.boot_vcpus = 2;
  expected.max_vcpus = 4;
  expected.topology = CpuTopology{2, 1, 1, 2};
  expected.kvm_hyperv = true;
  expected.max_phys_bits = 40;
  expected.affinity = {{0, {0, 1, 3}}, {1, {1}}, {2, {5}}};
  expected.features.amx = true;
  expected.nested = false;
  expected.core_scheduling = CoreSchedulingMode::Vcpu;
  CHECK(*cpus == expected);
}

TEST_CASE("--platform turns the PC's old devices on") {
  CHECK(parse_platform_option("pc=on")->pc);
  CHECK_FALSE(parse_platform_option("pc=off")->pc);
  const auto balloon = parse_balloon_option("size=1M,deflate_on_oom=on,free_page_reporting=on,id=b");
  REQUIRE(balloon);
  BalloonConfig expected{1 << 20, true, true, {}};
  expected.pci.id = "b";
  CHECK(*balloon == expected);
  CHECK(error_of(parse_balloon_option("deflate_on_oom=on")).starts_with("--balloon needs size="));
  CHECK(error_of(parse_platform_option("pic=on")) == "--platform: unknown key \"pic\"; did you mean pc?");
}

TEST_CASE("--cpus boot or max alone stands for both, none for one") {
  CHECK(parse_cpus_option("boot=3")->max_vcpus == 3);
  CHECK(parse_cpus_option("max=4")->boot_vcpus == 4);
  CHECK(*parse_cpus_option("") == CpusConfig());
}

TEST_CASE("--cpus refuses what it does not understand") {
  CHECK(error_of(parse_cpus_option("boot=0")) == "--cpus boot=: 0 is not in the range 1 to 255");
  CHECK(error_of(parse_cpus_option("boot=two")) == "--cpus boot=: \"two\" is not a number");
  CHECK(error_of(parse_cpus_option("boots=2")) == "--cpus: unknown key \"boots\"; did you mean boot?");
  CHECK(error_of(parse_cpus_option("boot")) == "--cpus: boot needs a value");
  CHECK(error_of(parse_cpus_option("boot=1,boot=2")) == "--cpus: boot is given twice");
  CHECK(error_of(parse_cpus_option("boot=1,")) == "--cpus: \"boot=1,\" has an empty element");
  CHECK(error_of(parse_cpus_option("topology=1:2:1")) ==
        "--cpus topology=: \"1:2:1\" is not threads_per_core:cores_per_die:dies_per_package:packages");
  CHECK(error_of(parse_cpus_option("affinity=[0@[0-1]")) ==
        "--cpus: \"affinity=[0@[0-1]\" never closes a bracket");
  CHECK(error_of(parse_cpus_option("affinity=[0]")) == "--cpus affinity=: \"0\" is not VCPU@[HOST CPUS]");
  CHECK(error_of(parse_cpus_option("affinity=[0@[3-1]]")) ==
        "--cpus affinity=: 1 is not in the range 3 to 65535");
  CHECK(error_of(parse_cpus_option("features=avx")) == "--cpus features=: \"avx\" is not amx");
  CHECK(error_of(parse_cpus_option("core_scheduling=x")) ==
        "--cpus core_scheduling=: \"x\" is none of Vm, Vcpu, Off");
}

TEST_CASE("a list of CPUs is bounded") {
  CHECK(parse_cpu_list("0-65535")->size() == 65536);
  CHECK(error_of(parse_cpu_list("[0-65535,0-65535]")) == "\"[0-65535,0-65535]\" lists too many CPUs");
}

TEST_CASE("--memory knows its keys, with sizes and switches") {
  const auto memory = parse_memory_option(
      "size=2G,hotplug_size=1G,hotplugged_size=512M,hotplug_method=virtiomem,mergeable=on,shared=on,"
      "hugepages=on,"
      "hugepage_size=2M,prefault=true,reserve=on,thp=off,file=/x");
  REQUIRE_MESSAGE(memory, error_of(memory));
  MemoryConfig expected;
  expected.size = 2ULL << 30;
  expected.hotplug_size = 1ULL << 30;
  expected.hotplugged_size = 512ULL << 20;
  expected.hotplug_method = HotplugMethod::VirtioMem;
  expected.mergeable = expected.shared = expected.hugepages = expected.prefault = expected.reserve = true;
  expected.hugepage_size = 2ULL << 20;
  expected.thp = false;
  expected.file = "/x";
  CHECK(*memory == expected);
}

TEST_CASE("--memory says which key is wrong") {
  CHECK(error_of(parse_memory_option("size=512X")) ==
        "--memory size=: \"512X\" is not a size: write bytes, or a number with K, M, G or T");
  CHECK(error_of(parse_memory_option("shared=yes")) == "--memory shared=: \"yes\" is neither on nor off");
}

TEST_CASE("sizes take binary suffixes and nothing else") {
  CHECK(*parse_size("0") == 0);
  CHECK(*parse_size("4097") == 4097);
  CHECK(*parse_size("3K") == 3072);
  CHECK(*parse_size("3m") == 3ULL << 20);
  CHECK(*parse_size("16777215T") == 16777215ULL << 40);
  for (const char* text :
       {"", "K", "-1", "+1", " 1", "1 ", "1.5G", "1KB", "0x10", "16777216T", "18446744073709551616"}) {
    CAPTURE(text);
    CHECK_FALSE(parse_size(text));
  }
}

TEST_CASE("consoles have one mode") {
  CHECK(parse_serial_option("tty")->mode == ConsoleMode::Tty);
  CHECK(parse_serial_option("null")->mode == ConsoleMode::Null);
  CHECK(parse_serial_option("off")->mode == ConsoleMode::Off);
  CHECK(parse_serial_option("pty")->mode == ConsoleMode::Pty);
  CHECK(*parse_serial_option("file=/f") == SerialConfig{ConsoleMode::File, "/f", std::nullopt});
  CHECK(*parse_serial_option("socket=/s") == SerialConfig{ConsoleMode::Socket, std::nullopt, "/s"});
  for (const char* text : {"", "tty,pty", "tty,file=/f", "file", "tty=1", "TTY"}) {
    CAPTURE(text);
    CHECK_FALSE(parse_serial_option(text));
  }
}

TEST_CASE("a quoted path may have commas and brackets in it") {
  CHECK(parse_serial_option("file=\"/a,b[c\"")->file == "/a,b[c");
  CHECK(error_of(parse_serial_option("file=\"/a")) ==
        "--serial: \"file=\"/a\" never closes a quotation mark");
}

TEST_CASE("--console takes iommu and --debug-console a port") {
  const auto console = parse_console_option("pty,iommu=on,id=c0");
  REQUIRE(console);
  CHECK(console->pci.iommu);
  CHECK(console->pci.id == "c0");
  CHECK(parse_debug_console_option("file=/d,iobase=0x402")->iobase == 0x402);
  CHECK(parse_debug_console_option("tty")->iobase == 0xe9);
  CHECK_FALSE(parse_debug_console_option("socket=/s"));
  CHECK_FALSE(parse_debug_console_option("tty,iobase=0x10000"));
}

TEST_CASE("--restore knows Cloud Hypervisor's keys and ours") {
  const auto request = parse_restore_option(
      "source_url=file:///snap,memory_restore_mode=copy,prefault=on,resume=true,verify=lazy,cpu_check=ignore,"
      "identity=keep,clock=continue,memory_size=1G,vcpus=2");
  REQUIRE_MESSAGE(request, error_of(request));
  CHECK(request->source_url == "file:///snap");
  CHECK(request->memory_mode == RestoreRequest::MemoryMode::Copy);
  CHECK(request->prefault);
  CHECK(request->resume);
  CHECK(request->verify == RestoreRequest::Verify::Lazy);
  CHECK(request->cpu_check == RestoreRequest::CpuCheck::Ignore);
  CHECK(request->identity == RestoreRequest::Identity::Keep);
  CHECK(request->clock == RestoreRequest::ClockMode::Continue);
  CHECK(request->memory_size == 1ULL << 30);
  CHECK(request->vcpus == 2);
}

TEST_CASE("--restore refuses what is missing, wrong or not built") {
  CHECK(error_of(parse_restore_option("resume=on")) == "--restore needs source_url=file:///DIRECTORY");
  CHECK(error_of(parse_restore_option("source_url=tcp://dir")) ==
        "--restore source_url=: \"tcp://dir\" is not a file URL: write file:///absolute/directory");
  CHECK(error_of(parse_restore_option("source_url=file://dir")) ==
        "--restore source_url=: \"file://dir\" is a relative path: write file:///absolute/directory");
  CHECK(parse_restore_option("source_url=/d,memory_restore_mode=ondemand").error().code ==
        ErrorCode::NotSupported);
  for (const char* nets : {"n", "n@", "@[3]", "[n@[3],m]", "n@x", "n@-1", "[n@[3"}) {
    CAPTURE(nets);
    CHECK_FALSE(parse_restore_option(std::string("source_url=/d,net_fds=") + nets));
  }
  CHECK(parse_restore_option("source_url=/d,net_fds=[n@[3,4],m@5]")->net_fds ==
        std::vector<NetFds>{{"n", {3, 4}}, {"m", {5}}});
  CHECK(parse_restore_option("source_url=/d,memory_restore_mode=CopyOnWrite")->memory_mode ==
        RestoreRequest::MemoryMode::Cow);
}

TEST_CASE("on a command line a path is relative to its working directory") {
  const std::string here = std::filesystem::current_path().native();
  CHECK(parse_restore_option("source_url=dir")->source_url == here + "/dir");
  CHECK(parse_restore_option("source_url=./a/b,resume=on")->source_url == here + "/a/b");
  CHECK(parse_restore_option("source_url=../b")->source_url == here + "/../b");
  CHECK(*directory_from_user("/a") == "/a");
  CHECK(*directory_from_user("file:///a") == "file:///a");
  CHECK_FALSE(directory_from_user(""));
}

TEST_CASE("file URLs and absolute paths become paths, everything else is refused") {
  CHECK(*path_from_file_url("file:///a/b c") == "/a/b c");
  CHECK(*path_from_file_url("/a") == "/a");
  CHECK(*path_from_file_url("file:///a%20b") == "/a%20b");
  for (const std::string& url : {std::string(), std::string("a"), std::string("file://host/a"),
                                 std::string("file:"), std::string("tcp://a"), std::string("file://"),
                                 "/" + std::string(4096, 'x'), std::string("/a\0b", 4)}) {
    CAPTURE(url.substr(0, 20));
    CHECK_FALSE(path_from_file_url(url));
  }
}
