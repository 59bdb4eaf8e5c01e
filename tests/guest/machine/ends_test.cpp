// How guests end, and how machines do.
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>

#include <doctest/doctest.h>

#include "tests/guest/machine/fixture.h"

using namespace vmmd;
using namespace vmmd::vm::test;
using vm::VcpuStop;

namespace {

std::size_t entries(const char* path) {
  const auto begin = std::filesystem::directory_iterator(path);
  return static_cast<std::size_t>(std::distance(begin, std::filesystem::directory_iterator()));
}

struct Resources {
  std::size_t fds = entries("/proc/self/fd");
  std::size_t threads = entries("/proc/self/task");
};

// A joined thread leaves /proc a moment after it has woken its joiner, so that one is waited for.
void check_nothing_left(const Resources& before) {
  CHECK(entries("/proc/self/fd") == before.fds);
  const auto end = std::chrono::steady_clock::now() + kDeadline;
  while (entries("/proc/self/task") != before.threads && std::chrono::steady_clock::now() < end) {
    ::sched_yield();
  }
  CHECK(entries("/proc/self/task") == before.threads);
}

// The listener is told once, however often the machine is paused and resumed afterwards.
void check_told_once(TestVm& vm) {
  for (int i = 0; i < 3; ++i) {
    vm.pause();
    vm.resume();
  }
  vm.pause();
  CHECK(vm.recorder().events() == 1);
}

bool contains(const std::string& text, std::string_view part) {
  CAPTURE(text);
  CAPTURE(part);
  const bool found = text.find(part) != std::string::npos;
  CHECK(found);
  return found;
}

}  // namespace

TEST_CASE("a guest that powers off asks for it once") {
  TestVm vm({"poweroff"});
  vm.boot();
  vm.recorder().wait();
  check_told_once(vm);
  CHECK(vm.recorder().shutdowns() == 1);
}

TEST_CASE("a guest that resets by the keyboard controller or by ACPI asks for it once") {
  TestVm vm({"reset", "wait"});
  vm.boot();
  vm.console().wait_for("ready");
  SUBCASE("keyboard controller") {
    vm.console().send("i\n");
  }
  SUBCASE("ACPI") {
    vm.console().send("a\n");
  }
  vm.recorder().wait();
  check_told_once(vm);
  CHECK(vm.recorder().resets() == 1);
}

TEST_CASE("a triple fault stops the vCPU with the place where it happened") {
  TestVm vm({"triple"});
  vm.boot();
  vm.recorder().wait();
  check_told_once(vm);
  REQUIRE(vm.recorder().stops().size() == 1);
  const VcpuStop stop = vm.recorder().stops().front();
  CHECK(stop.vcpu == 0);
  CHECK(stop.reason == VcpuStop::Reason::TripleFault);
  contains(stop.message, "vCPU 0: triple fault");
  contains(stop.message, "rip 0x");
  contains(stop.message, "CR3 0x");
}

TEST_CASE("an instruction that KVM cannot emulate stops the vCPU with its bytes") {
  TestVm vm({"badinsn"});
  vm.boot();
  vm.recorder().wait();
  check_told_once(vm);
  REQUIRE(vm.recorder().stops().size() == 1);
  const VcpuStop stop = vm.recorder().stops().front();
  CHECK(stop.reason == VcpuStop::Reason::InternalError);
  contains(stop.message, "cannot emulate");
  contains(stop.message, "bytes: 0f ae");  // xsave
  contains(stop.message, "CPL 0");
}

TEST_CASE("a machine of 255 vCPUs is created, runs and ends, and leaves nothing behind") {
  static_cast<void>(host_kvm());
  const Resources before;
  {
    TestVm vm({"idle", "", 255});
    SUBCASE("destroyed cold") {
      REQUIRE(vm.create());
    }
    SUBCASE("destroyed while it runs") {
      vm.boot();
      vm.console().wait_for("idle");
    }
    SUBCASE("destroyed while it is paused") {
      vm.boot();
      vm.console().wait_for("idle");
      vm.pause();
    }
  }
  check_nothing_left(before);
}

TEST_CASE("more vCPUs than KVM allows are refused with both numbers") {
  TestVm vm({"idle", "", host_kvm()->max_vcpus() + 1});
  const Status status = vm.create();
  REQUIRE_FALSE(status);
  CHECK(status.error().code == ErrorCode::BadRequest);
  contains(status.error().to_string(), std::to_string(host_kvm()->max_vcpus() + 1));
  contains(status.error().to_string(), std::to_string(host_kvm()->max_vcpus()));
}

TEST_CASE("a boot that fails leaves no descriptor and no thread") {
  static_cast<void>(host_kvm());
  const Resources before;
  {
    TestVm vm({"idle", "", 4});
    REQUIRE(vm.create());
    SUBCASE("no kernel") {
      vm.config().payload.kernel.reset();
    }
    SUBCASE("a kernel that is not there") {
      vm.config().payload.kernel = "/nonexistent/kernel";
    }
    SUBCASE("a kernel that is none") {
      vm.config().payload.kernel = "/proc/self/cmdline";
    }
    SUBCASE("an initramfs that is not there") {
      vm.config().payload.initramfs = "/nonexistent/initramfs";
    }
    CHECK_FALSE(vm.machine().boot(vm.config()));
  }
  check_nothing_left(before);
}

TEST_CASE("a vCPU that cannot run where it shall does not run elsewhere, however often it is asked to") {
  static_cast<void>(host_kvm());
  const Resources before;
  {
    TestVm vm({"tick", "", 2});
    const auto no_such_cpu = static_cast<unsigned>(::sysconf(_SC_NPROCESSORS_CONF));
    REQUIRE(no_such_cpu < CPU_SETSIZE);
    vm.config().cpus.affinity = {{1, {no_such_cpu}}};
    REQUIRE(vm.create());
    REQUIRE(vm.machine().boot(vm.config()));
    for (int i = 0; i < 2; ++i) {
      const Status status = vm.machine().resume();
      REQUIRE_FALSE(status);
      CHECK(status.error().code == ErrorCode::BadRequest);
      contains(status.error().to_string(),
               "vcpu1 cannot run on the host's CPUs " + std::to_string(no_such_cpu));
    }
  }
  check_nothing_left(before);
}

TEST_CASE("a restore that fails leaves no descriptor and no thread, and the next one works") {
  TestVm source({"tick", "", 2});
  source.boot();
  source.console().wait_for("tick 1");
  source.pause();
  Saved saved = source.save();
  const state::SavedState good = saved.units;
  const Resources before;
  {
    TestVm vm({"tick", "", 2});
    auto& units = *saved.units.mutable_units();
    auto& vcpu = *std::find_if(units.begin(), units.end(), [](const auto& u) { return u.name() == "vcpu1"; });
    SUBCASE("a unit that the machine lacks") {
      saved.units.add_units()->set_name("tpm");
    }
    SUBCASE("a unit twice") {
      *saved.units.add_units() = good.units(0);
    }
    SUBCASE("a vCPU's bytes cut off") {
      vcpu.mutable_state()->mutable_value()->resize(vcpu.state().value().size() / 2);
    }
    SUBCASE("a vCPU of another type") {
      vcpu.mutable_state()->set_type_url("type.googleapis.com/x.Y");
    }
    SUBCASE("a vCPU of a later version") {
      vcpu.set_version(99);
    }
    SUBCASE("a vCPU without a LAPIC") {
      state::Vcpu message = vcpu_of(good, 1);
      message.clear_lapic();
      vcpu.mutable_state()->set_value(message.SerializeAsString());
    }
    SUBCASE("a vCPU with impossible control registers") {
      state::Vcpu message = vcpu_of(good, 1);
      message.mutable_sregs()->set_cr4(~std::uint64_t{0});
      vcpu.mutable_state()->set_value(message.SerializeAsString());
    }
    CHECK_FALSE(vm.try_restore(saved));
    vm.destroy();
    saved.units = good;
    vm.restore(saved);
  }
  check_nothing_left(before);
}
