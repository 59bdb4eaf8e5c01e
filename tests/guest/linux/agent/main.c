// /init of the Linux test guest: says "INIT UP <seconds since boot>", mounts what it needs, says "AGENT
// READY", then counts ("tick N", each second or as the kernel's command line says with tick=MS), obeys lines
// on its terminal (commands.h) and powers off when the power button is pressed. With serve=PORT on the
// kernel's command line whoever connects to that port of vsock can send it a line, too, and gets the answer.
#include "commands.h"
#include "text.h"

static char** environment;

static u64 option(const char* name, u64 otherwise) {
  size_t n = length_of(name);
  for (char** entry = environment; *entry; entry++) {
    if (!contains(*entry, n, name) || (*entry)[n] != '=') continue;
    char* value = *entry + n + 1;
    return next_number(&value);
  }
  return otherwise;
}

// No echo, no line editing, no "\r": what a test sends and reads is what is there.
static void make_raw(void) {
  struct {
    u32 input, output, control, local;
    u8 discipline, characters[19];
  } terminal;
  if (control(0, 0x5401 /* TCGETS */, &terminal) != 0) return;
  terminal.input = terminal.output = terminal.local = 0;
  terminal.characters[6] = 1;  // VMIN
  terminal.characters[5] = 0;  // VTIME
  control(0, 0x5402 /* TCSETS */, &terminal);
}

static bool take_input(struct agent* agent) {
  static char line[1024];
  static size_t length;
  char bytes[256];
  long n = read_fd(0, bytes, sizeof bytes);
  if (n <= 0) return false;
  for (long i = 0; i < n; i++) {
    if (bytes[i] != '\n' && bytes[i] != '\r') {
      if (length + 1 < sizeof line) line[length++] = bytes[i];
      continue;
    }
    line[length] = 0;
    if (length > 0) run_command(agent, line);
    length = 0;
  }
  return true;
}

static void take_button(int fd) {
  struct {
    i64 seconds, microseconds;
    uint16_t type, code;
    int value;
  } event;
  if (read_fd(fd, &event, sizeof event) != sizeof event) return;
  if (event.type != 1 /* EV_KEY */ || event.code != 116 /* KEY_POWER */ || event.value != 1) return;
  print("power button\n");
  power_off();
}

__attribute__((noreturn, used)) static void agent_main(char** stack) {
  environment = stack + 2 + (long)stack[0];
  make_raw();
  print("INIT UP %t\n", clock_now(kBoottime));
  mount("devtmpfs", "/dev");
  SYS(83, "/proc", 0755, 0, 0);  // mkdir
  SYS(83, "/sys", 0755, 0, 0);
  mount("proc", "/proc");
  mount("sysfs", "/sys");
  // Whole huge pages at once: one fault a page costs milliseconds where ring 0 is emulated.
  int thp = open_file("/sys/kernel/mm/transparent_hugepage/enabled", kWriteOnly);
  write_fd(thp, "always", 6);
  close_fd(thp);

  struct agent agent = {.count = 0, .tick_timer = timer_create()};
  struct pollfd fds[] = {{.fd = 0, .events = kPollIn},
                         {.fd = agent.tick_timer, .events = kPollIn},
                         {.fd = open_file("/dev/input/event0", kReadOnly | kNonBlocking), .events = kPollIn},
                         {.fd = -1, .events = kPollIn}};
  u64 port = option("serve", 0);
  if (port != 0) fds[3].fd = vsock_service((u32)port);
  set_tick(&agent, option("tick", 1000));
  print("AGENT READY\n");
  for (;;) {
    if (poll_fds(fds, 4) < 0) continue;
    u64 expired;
    if (fds[1].revents && read_fd(agent.tick_timer, &expired, sizeof expired) == sizeof expired)
      print("tick %u\n", agent.count++);
    if (fds[0].revents && !take_input(&agent)) fds[0].fd = -1;
    if (fds[2].revents) take_button(fds[2].fd);
    if (fds[3].revents) serve_line(fds[3].fd, &agent);
  }
}

__asm__(".globl _start\n_start: mov %rsp, %rdi\n and $-16, %rsp\n call agent_main\n");
