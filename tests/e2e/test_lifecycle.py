"""Bare-metal guests through their whole life: boot, pause, resume, reboot, the many ends."""
import pytest

from vmmd import bare, eventually

pytestmark = pytest.mark.guest

STATES = ["none", "Created", "Running", "Paused", "Shutdown"]


def bring(daemon, state):
    if state == "none":
        return
    daemon.create(bare("idle"))
    if state != "Created":
        daemon.put("vm.boot")
    if state == "Paused":
        daemon.put("vm.pause")
    if state == "Shutdown":
        daemon.put("vm.shutdown")


def test_boot_runs_the_guest_from_its_first_instruction(daemon):
    serial = daemon.boot(bare("firstbyte"))
    serial.expect(r"!\.\.\.")
    assert serial.text.startswith("!.")
    assert daemon.state() == "Running"


def test_serial_line_carries_both_ways(daemon):
    serial = daemon.boot(bare("tick"))
    serial.ask("hello, guest", r"^echo hello, guest$")
    serial.ask("a" * 100, r"^echo a{100}$")


def test_input_longer_than_the_fifo_arrives_whole(daemon):
    serial = daemon.boot(bare("tick"))
    serial.expect(r"^tick 0$")
    lines = [f"line {n} " + "x" * (n % 90) for n in range(100)]
    serial.socket.sendall("".join(line + "\n" for line in lines).encode())
    for line in lines:
        serial.expect(f"^echo {line}$")


def test_pause_stops_the_guest_and_resume_continues_it(daemon):
    serial = daemon.boot(bare("tick"))
    serial.expect(r"^tick 3$")
    daemon.put("vm.pause")
    assert daemon.state() == "Paused"
    # All that was said before the pause has come when the echo of a resumed guest has; so look at it afterwards.
    daemon.put("vm.resume")
    assert daemon.state() == "Running"
    serial.ask("still there", r"^echo still there$")
    ticks = [int(word) for word in serial.text.replace("tick ", " ").split() if word.isdigit()]
    assert ticks == list(range(len(ticks)))


def test_a_paused_guest_says_nothing(daemon):
    serial = daemon.boot(bare("tick"), "period_ms=1")
    serial.expect(r"^tick 3$")
    daemon.put("vm.pause")
    serial.send("anybody there?")
    # Each request below takes longer than the guest's tick does.
    mark = None
    for _ in range(200):
        daemon.get("vm.info")
        mark = mark if mark is not None else serial.quiet_since()
    said = serial.said_since(mark)
    assert len(said) <= 64, said  # what the socket still held at the mark
    daemon.put("vm.resume")
    serial.expect(r"^echo anybody there\?$")


def test_pause_and_resume_a_hundred_times(daemon):
    serial = daemon.boot(bare("tick"), "period_ms=1")
    for _ in range(100):
        daemon.put("vm.pause")
        daemon.put("vm.resume")
    serial.ask("alive", r"^echo alive$")


def test_reboot_starts_the_guest_again(daemon):
    serial = daemon.boot(bare("tick"))
    serial.expect(r"^tick 5$")
    daemon.put("vm.reboot")
    assert daemon.state() == "Running"
    serial.expect(r"^tick 0$")
    serial.expect(r"^tick 5$")


def test_shutdown_keeps_the_vm_and_it_boots_again(daemon):
    serial = daemon.boot(bare("tick"))
    serial.expect(r"^tick 9$")
    daemon.put("vm.shutdown")
    assert daemon.state() == "Shutdown"
    daemon.put("vm.boot")
    serial.expect(r"^tick 1$")


def test_delete_forgets_the_vm_and_another_can_be_created(daemon):
    daemon.boot(bare("tick")).expect(r"^tick 1$")
    daemon.put("vm.delete")
    assert daemon.raw("GET", "vm.info")[0] == 404
    daemon.boot(bare("idle")).expect(r"^idle$")


def test_power_off_ends_vmmd_with_exit_code_0(daemon):
    serial = daemon.boot(bare("poweroff"), "wait")
    serial.ask("", r"^exit p$")
    assert daemon.wait_exit() == 0


def test_power_off_with_no_shutdown_leaves_the_vm_shut_down(start):
    daemon = start("--no-shutdown")
    serial = daemon.boot(bare("poweroff"), "wait")
    serial.ask("", r"^exit p$")
    daemon.events.wait("vm", "shutdown")
    assert daemon.state() == "Shutdown"
    daemon.put("vm.boot")
    serial.expect(r"^ready$")


@pytest.mark.parametrize("how", ["i", "a"], ids=["i8042", "acpi"])
def test_guest_reset_reboots_the_machine(daemon, how):
    serial = daemon.boot(bare("reset"), "wait")
    serial.expect(r"^ready$")
    serial.ask(how, f"^exit {how}$")
    daemon.events.wait("vm", "rebooted")
    serial.expect(r"^ready$")
    assert serial.text == f"ready\nexit {how}\nready\n", "nothing runs after a reset"
    assert daemon.state() == "Running"


def test_triple_fault_stops_the_vm_and_is_told(daemon):
    serial = daemon.boot(bare("triple"), "wait")
    serial.expect(r"^ready$")
    serial.ask("", r"^exit t$")
    event = daemon.events.wait("guest", "crashed")
    assert "triple fault" in str(event["properties"]), event
    daemon.events.wait("vm", "shutdown")
    assert daemon.state() == "Shutdown"
    daemon.put("vm.boot")
    serial.expect(r"^ready$")


def test_an_instruction_kvm_cannot_emulate_stops_the_vm_and_its_bytes_are_told(daemon):
    serial = daemon.boot(bare("badinsn"), "wait")
    serial.expect(r"^ready$")
    serial.ask("", r"^exit x$")
    event = daemon.events.wait("guest", "crashed")
    assert "0f ae" in str(event["properties"]), event
    daemon.events.wait("vm", "shutdown")
    assert daemon.state() == "Shutdown"
    daemon.put("vm.delete")
    daemon.boot(bare("idle")).expect(r"^idle$")


def test_timers_of_every_kind_tick(daemon):
    serial = daemon.boot(bare("timers"))
    first = serial.expect(r"^tsc (\d+) lapic 0 rtc (\d+)$")
    # 64 Hz and 200 Hz: of 32 RTC interrupts later there must have been about 100 deadlines.
    later = serial.expect(rf"^tsc (\d+) lapic 0 rtc {int(first[2]) + 32}$")
    deadlines = int(later[1]) - int(first[1])
    assert 20 <= deadlines <= 130, deadlines


def test_periodic_lapic_timer_ticks(daemon):
    serial = daemon.boot(bare("timers"), "periodic")
    serial.expect(r"^tsc 0 lapic [1-9]\d* rtc 48$")


@pytest.mark.parametrize("trigger", ["edge", "level"])
def test_serial_interrupts_through_the_ioapic(daemon, trigger):
    serial = daemon.boot(bare("irq"), trigger)
    serial.expect(r"^irq ready$")
    for n in range(50):
        serial.ask(f"line {n}", f"^echo line {n}$")
    counts = serial.ask("irqs", r"^received (\d+) emptied (\d+)$")
    assert int(counts[1]) >= 50 and int(counts[2]) >= 50


def counters(serial):
    """Of the guest "smp": each CPU's."""
    return [int(n) for n in serial.ask("c", r"^counters (.*)$")[1].split()]


@pytest.mark.parametrize("cpus", [1, 2, 4])
def test_every_cpu_starts_and_runs(daemon, cpus):
    serial = daemon.boot(bare("smp"), f"cpus={cpus}", cpus=cpus)
    serial.expect(f"^cpus {cpus}$")
    first = counters(serial)
    assert len(first) == cpus
    # The others must all move on; how fast is the host's affair.
    eventually(lambda: all(now > before for now, before in zip(counters(serial), first)))


@pytest.mark.parametrize("memory", [2 << 20 | 1 << 20, 64 << 20, 3 << 30, 5 << 30], ids=lambda n: f"{n >> 20}MiB")
def test_all_memory_is_there_and_separate(daemon, memory):
    serial = daemon.boot(bare("pattern"), memory=memory)
    serial.expect(r"^pattern ready$")
    size = int(serial.ask("m", r"^ram (\d+)$")[1])
    assert memory - (1 << 20) <= size <= memory
    # Its first part, the end of what lies below the hole, and the first above it.
    parts = [(2, 3)] + [(3060, 3072)] * (memory >= 3 << 30) + [(4096, 4104)] * (memory > 3 << 30)
    for command in ("w", "c"):
        for seed, (start, end) in enumerate(parts):
            serial.ask(f"{command} {seed} {start} {end}", r"^ok \w+$")


@pytest.mark.parametrize("path,method", [
    ("vm.boot", "PUT"), ("vm.pause", "PUT"), ("vm.resume", "PUT"), ("vm.shutdown", "PUT"), ("vm.reboot", "PUT"),
    ("vm.power-button", "PUT"), ("vm.nmi", "PUT"), ("vm.info", "GET"), ("vm.counters", "GET")])
def test_no_vm_is_404(daemon, path, method):
    status, body = daemon.raw(method, path)
    assert status == 404 and isinstance(body, list) and body, body


ILLEGAL = [
    ("Created", "vm.pause"), ("Created", "vm.resume"), ("Created", "vm.power-button"), ("Created", "vm.nmi"),
    ("Running", "vm.boot"), ("Running", "vm.resume"),
    ("Paused", "vm.boot"), ("Paused", "vm.pause"),
    ("Shutdown", "vm.pause"), ("Shutdown", "vm.resume"), ("Shutdown", "vm.power-button"), ("Shutdown", "vm.nmi"),
]


@pytest.mark.parametrize("state,command", ILLEGAL)
def test_a_command_out_of_place_is_405_names_both_and_changes_nothing(daemon, state, command):
    bring(daemon, state)
    status, body = daemon.raw("PUT", command)
    text = " ".join(body)
    assert status == 405, (status, body)
    assert command in text and state in text, text
    assert daemon.state() == state


@pytest.mark.parametrize("state", ["Created", "Running", "Paused", "Shutdown"])
def test_a_second_create_is_refused_and_names_the_state(daemon, state):
    bring(daemon, state)
    status, body = daemon.raw("PUT", "vm.create", daemon.config(bare("tick")))
    assert status == 405 and state in " ".join(body), body
    assert daemon.state() == state


@pytest.mark.parametrize("state", ["none", "Created", "Running", "Paused", "Shutdown"])
def test_delete_is_possible_in_every_state(daemon, state):
    bring(daemon, state)
    daemon.put("vm.delete")
    assert daemon.raw("GET", "vm.info")[0] == 404


def test_events_tell_the_whole_story_in_order(daemon):
    daemon.boot(bare("idle"))
    daemon.put("vm.pause")
    daemon.put("vm.resume")
    daemon.put("vm.shutdown")
    daemon.put("vm.delete")
    for event in ("booted", "paused", "resumed", "shutdown", "deleted"):
        daemon.events.wait("vm", event)
    numbers = [event["sequence"] for event in daemon.events.seen]
    assert numbers == list(range(1, len(numbers) + 1))


def test_vmm_shutdown_ends_the_process(daemon):
    daemon.boot(bare("tick"))
    daemon.put("vmm.shutdown")
    assert daemon.wait_exit() == 0


def test_sigterm_with_a_running_guest_is_orderly(daemon):
    daemon.boot(bare("tick")).expect(r"^tick 1$")
    assert daemon.stop() == 0
    assert not daemon.serial_path.exists()


def test_counters_name_the_devices(daemon):
    serial = daemon.boot(bare("tick"))
    serial.expect(r"^tick 3$")
    counters = daemon.get("vm.counters")
    assert any(name.startswith("serial") for name in counters), counters
    assert all(isinstance(value, int) for device in counters.values() for value in device.values())
