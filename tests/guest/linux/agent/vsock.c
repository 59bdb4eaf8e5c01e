// One stream over vsock at a time, and one socket that listens.
#include "commands.h"
#include "text.h"

enum { kFamily = 40 /* AF_VSOCK */, kStream = 1, kHost = 2 };

static int listener = -1;
static int stream = -1;

struct address {
  uint16_t family, reserved;
  u32 port, cid;
  u32 zero;
};

static void say(const char* what, long result) {
  if (result < 0)
    print("vsock: error %u\n", (u64)-result);
  else
    print("vsock %s\n", what);
}

static void close_stream(void) {
  if (stream >= 0) close_fd(stream);
  stream = -1;
}

int vsock_service(u32 port) {
  struct address address = {kFamily, 0, port, 0xffffffff, 0};
  int fd = (int)SYS(41, kFamily, kStream, 0, 0);
  long result = SYS(49, fd, &address, sizeof address, 0);
  if (result == 0) result = SYS(50, fd, 8, 0, 0);
  return result == 0 ? fd : (int)result;
}

void serve_line(int service, struct agent* agent) {
  char line[256];
  size_t length = 0;
  int client = (int)SYS(43, service, 0, 0, 0);
  if (client < 0) return;
  while (length < sizeof line - 1 && read_fd(client, line + length, 1) == 1 && line[length] != '\n') length++;
  line[length] = 0;
  int terminal = (int)SYS(32, 1, 0, 0, 0);  // dup: print() goes to the client for once
  SYS(33, client, 1, 0, 0);
  run_command(agent, line);
  SYS(33, terminal, 1, 0, 0);
  close_fd(terminal);
  close_fd(client);
}

static void listen_on(u32 port) {
  if (listener >= 0) close_fd(listener);
  listener = vsock_service(port);
  say("listening", listener);
}

static void connect_to(u32 port) {
  struct address address = {kFamily, 0, port, kHost, 0};
  close_stream();
  stream = (int)SYS(41, kFamily, kStream, 0, 0);
  say("connected", SYS(42, stream, &address, sizeof address, 0));
}

static void read_some(void) {
  char text[256];
  long n = read_fd(stream, text, sizeof text - 1);
  if (n < 0) {
    say("", n);
  } else if (n == 0) {
    print("vsock end\n");
  } else {
    text[n] = 0;
    print("vsock read %s\n", text);
  }
}

static void tell_cid(void) {
  u32 cid = 0;
  int fd = open_file("/dev/vsock", kReadOnly);
  long result = control(fd, 0x7b9 /* IOCTL_VM_SOCKETS_GET_LOCAL_CID */, &cid);
  close_fd(fd);
  if (result < 0)
    say("", result);
  else
    print("vsock cid %u\n", (u64)cid);
}

void vsock(char* line) {
  const char* word = next_word(&line);
  if (same(word, "cid")) {
    tell_cid();
  } else if (same(word, "listen")) {
    listen_on((u32)next_number(&line));
  } else if (same(word, "accept")) {
    close_stream();
    stream = (int)SYS(43, listener, 0, 0, 0);
    say("accepted", stream);
  } else if (same(word, "connect")) {
    connect_to((u32)next_number(&line));
  } else if (same(word, "read")) {
    read_some();
  } else if (same(word, "write")) {
    say("written", write_fd(stream, line, length_of(line)));
  } else if (same(word, "send") || same(word, "receive")) {
    u64 seed = next_number(&line);
    transfer("vsock", stream, same(word, "send"), seed, next_number(&line) << 10);
  } else if (same(word, "shut")) {
    say("shut", SYS(48, stream, 1 /* SHUT_WR */, 0, 0));
  } else if (same(word, "close")) {
    close_stream();
    say("closed", 0);
  } else {
    print("vsock: what is \"%s\"?\n", word);
  }
}
