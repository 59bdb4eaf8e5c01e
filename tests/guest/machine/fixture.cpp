#include "tests/guest/machine/fixture.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>

#include <doctest/doctest.h>

#include "base/file.h"
#include "daemon/snapshot/memory_copy.h"
#include "daemon/snapshot/units.h"

namespace vmmd::vm::test {

namespace {

void require(const Status& status) {
  if (!status) FAIL(status.error().to_string());
}

}  // namespace

std::shared_ptr<const kvm::Kvm> host_kvm() {
  static const auto opened = kvm::Kvm::open();
  if (!opened) FAIL(opened.error().to_string());
  return *opened;
}

std::string guest_image(std::string_view name) {
  return std::string(VMMD_BARE_GUESTS "/").append(name) + ".elf";
}

Console::Console(const std::string& path) : socket_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  REQUIRE(path.size() < sizeof address.sun_path);
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  REQUIRE(::connect(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
}

void Console::send(std::string_view text) const {
  REQUIRE(::send(socket_.get(), text.data(), text.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(text.size()));
}

void Console::receive() {
  pollfd wanted = {socket_.get(), POLLIN, 0};
  const auto limit = std::chrono::milliseconds(kDeadline).count();
  if (::poll(&wanted, 1, static_cast<int>(limit)) != 1) {
    FAIL("the guest says nothing more; its last words: ",
         text_.substr(text_.size() - std::min<std::size_t>(text_.size(), 400)));
  }
  std::array<char, 4096> buffer;
  const ssize_t got = ::recv(socket_.get(), buffer.data(), buffer.size(), 0);
  REQUIRE(got > 0);
  text_.append(buffer.data(), static_cast<std::size_t>(got));
}

void Console::wait_for(std::string_view text) {
  const auto end = std::chrono::steady_clock::now() + kDeadline;
  while (true) {
    if (const auto found = text_.find(text, seen_); found != std::string::npos) {
      seen_ = found + text.size();
      return;
    }
    if (std::chrono::steady_clock::now() > end) {
      FAIL("the guest never said \"", std::string(text),
           "\"; its last words: ", text_.substr(text_.size() - std::min<std::size_t>(text_.size(), 400)));
    }
    receive();
  }
}

std::string Console::next_line(std::string_view start) {
  wait_for(start);
  const std::size_t begin = seen_ - start.size();
  wait_for("\n");
  return text_.substr(begin, seen_ - 1 - begin);
}

std::vector<std::string> Console::lines() const {
  std::vector<std::string> lines;
  std::size_t at = 0;
  for (std::size_t end = text_.find('\n'); end != std::string::npos; end = text_.find('\n', at)) {
    lines.push_back(text_.substr(at, end - at));
    at = end + 1;
  }
  return lines;
}

void Recorder::on_vcpu_stopped(VcpuStop stop) {
  const std::lock_guard lock(mutex_);
  stops_.push_back(std::move(stop));
  changed_.notify_all();
}

void Recorder::request_reset() {
  const std::lock_guard lock(mutex_);
  ++resets_;
  changed_.notify_all();
}

void Recorder::request_shutdown() {
  const std::lock_guard lock(mutex_);
  ++shutdowns_;
  changed_.notify_all();
}

void Recorder::wait() {
  std::unique_lock lock(mutex_);
  REQUIRE(changed_.wait_for(lock, kDeadline, [this] { return stops_.size() + resets_ + shutdowns_ > 0; }));
}

std::vector<VcpuStop> Recorder::stops() const {
  const std::lock_guard lock(mutex_);
  return stops_;
}

unsigned Recorder::resets() const {
  const std::lock_guard lock(mutex_);
  return resets_;
}

unsigned Recorder::shutdowns() const {
  const std::lock_guard lock(mutex_);
  return shutdowns_;
}

std::size_t Recorder::events() const {
  const std::lock_guard lock(mutex_);
  return stops_.size() + resets_ + shutdowns_;
}

TestVm::TestVm(const Setup& setup) {
  config_.cpus.boot_vcpus = config_.cpus.max_vcpus = setup.vcpus;
  config_.memory.size = std::uint64_t{16} << 20;
  config_.memory.thp = false;
  config_.payload.kernel = guest_image(setup.guest);
  config_.payload.cmdline = setup.cmdline;
  config_.serial.mode = api::ConsoleMode::Socket;
  config_.serial.socket = dir_ / "serial";
  auto host = HostSide::open(config_, HostSide::Life::New);
  if (!host) FAIL(host.error().to_string());
  host_ = std::move(*host);
  console_ = std::make_unique<Console>(*config_.serial.socket);
}

TestVm::~TestVm() = default;

std::vector<memory::RamRange> TestVm::layout() const {
  const auto layout = memory::ram_layout(config_.memory.size, config_.cpus.max_phys_bits);
  REQUIRE(layout);
  return *layout;
}

Status TestVm::create_with(memory::GuestRam ram) {
  VMMD_ASSIGN(machine_, Machine::create(host_kvm(), config_, std::move(ram), *host_, recorder_));
  return {};
}

Status TestVm::create() {
  VMMD_ASSIGN(memory::GuestRam ram, memory::GuestRam::allocate(config_.memory, layout()));
  return create_with(std::move(ram));
}

void TestVm::boot() {
  require(create());
  require(machine_->boot(config_));
  resume();
}

void TestVm::pause() {
  require(machine_->pause());
}

void TestVm::resume() {
  require(machine_->resume());
}

state::SavedState TestVm::save_units() {
  auto saved = snapshot::save_units(machine_->units());
  if (!saved) FAIL(saved.error().to_string());
  return std::move(*saved);
}

Saved TestVm::save() {
  Saved saved{save_units(), UniqueFd(::memfd_create("memory.bin", MFD_CLOEXEC))};
  snapshot::MemoryDigests digests(config_.memory.size);
  snapshot::Job job("snapshot-1", "snapshot");
  const auto bytes = snapshot::copy_memory_out(machine_->ram(), saved.memory.get(), digests, job);
  if (!bytes) FAIL(bytes.error().to_string());
  return saved;
}

Status TestVm::try_restore(const Saved& saved) {
  UniqueFd memory(::fcntl(saved.memory.get(), F_DUPFD_CLOEXEC, 0));
  VMMD_ASSIGN(memory::GuestRam ram,
              memory::GuestRam::copy_on_write(std::move(memory), layout(), config_.memory));
  VMMD_TRY(create_with(std::move(ram)));
  std::vector<std::string> fresh;
  const auto units = machine_->units();
  VMMD_TRY(snapshot::compare_units(saved.units, units, fresh));
  REQUIRE(fresh.empty());
  machine_->time().begin_restore(/*catch_up_with_wall_clock=*/false);
  VMMD_TRY(snapshot::restore_units(saved.units, units));
  return {};
}

void TestVm::restore(const Saved& saved) {
  require(try_restore(saved));
}

state::Vcpu vcpu_of(const state::SavedState& saved, unsigned index) {
  state::Vcpu vcpu;
  for (const state::SavedUnit& unit : saved.units()) {
    if (unit.name() == "vcpu" + std::to_string(index)) REQUIRE(vcpu.ParseFromString(unit.state().value()));
  }
  REQUIRE(vcpu.has_regs());
  return vcpu;
}

std::vector<std::uint64_t> numbers(std::string_view line) {
  std::vector<std::uint64_t> numbers;
  bool inside = false;
  for (const char c : line) {
    const bool digit = c >= '0' && c <= '9';
    if (digit && !inside) numbers.push_back(0);
    if (digit) numbers.back() = numbers.back() * 10 + static_cast<std::uint64_t>(c - '0');
    inside = digit;
  }
  return numbers;
}

}  // namespace vmmd::vm::test
