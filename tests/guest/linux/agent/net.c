// Internet: an interface's address, and one TCP stream at a time.
#include "commands.h"
#include "text.h"

enum { kInternet = 2 /* AF_INET */, kStream = 1, kDatagram = 2 };

static int listener = -1;
static int stream = -1;

struct address {
  uint16_t family;
  u8 port[2];
  u8 ip[4];
  u8 zero[8];
};

static void say(const char* what, long result) {
  if (result < 0)
    print("net: error %u\n", (u64)-result);
  else
    print("net %s\n", what);
}

void internet_address(const char* text, u8* bytes) {
  for (int i = 0; i < 4; i++) {
    for (bytes[i] = 0; *text >= '0' && *text <= '9'; text++) bytes[i] = (u8)(bytes[i] * 10 + *text - '0');
    if (*text == '.') text++;
  }
}

static struct address address_of(char** line) {
  struct address address = {.family = kInternet};
  internet_address(next_word(line), address.ip);
  return address;
}

static void set_port(struct address* address, u64 port) {
  address->port[0] = (u8)(port >> 8);
  address->port[1] = (u8)port;
}

// up INTERFACE ADDRESS BITS
static void bring_up(char* line) {
  struct {
    char name[16];
    union {
      struct address address;
      short flags;
      u8 room[24];
    };
  } request = {.name = {0}};
  const char* name = next_word(&line);
  for (size_t i = 0; i < length_of(name) && i < sizeof request.name - 1; i++) request.name[i] = name[i];
  int fd = (int)SYS(41, kInternet, kDatagram, 0, 0);
  request.address = address_of(&line);
  long result = control(fd, 0x8916 /* SIOCSIFADDR */, &request);
  u64 bits = next_number(&line);
  for (unsigned i = 0; i < 4; i++) {
    u64 here = bits > i * 8 ? bits - i * 8 : 0;
    request.address.ip[i] = (u8)(0xff00 >> (here < 8 ? here : 8));
  }
  if (result == 0) result = control(fd, 0x891c /* SIOCSIFNETMASK */, &request);
  if (result == 0) result = control(fd, 0x8913 /* SIOCGIFFLAGS */, &request);
  request.flags |= 1;  // IFF_UP
  if (result == 0) result = control(fd, 0x8914 /* SIOCSIFFLAGS */, &request);
  close_fd(fd);
  say("up", result);
}

static void listen_on(u64 port) {
  struct address address = {.family = kInternet};
  set_port(&address, port);
  if (listener >= 0) close_fd(listener);
  listener = (int)SYS(41, kInternet, kStream, 0, 0);
  long result = SYS(49, listener, &address, sizeof address, 0);
  say("listening", result == 0 ? SYS(50, listener, 8, 0, 0) : result);
}

static void take(int fd, const char* what) {
  if (stream >= 0) close_fd(stream);
  stream = fd;
  say(what, fd);
}

static void connect_to(char* line) {
  struct address address = address_of(&line);
  set_port(&address, next_number(&line));
  int fd = (int)SYS(41, kInternet, kStream, 0, 0);
  long result = SYS(42, fd, &address, sizeof address, 0);
  take(result < 0 ? (int)result : fd, "connected");
}

void net(char* line) {
  const char* word = next_word(&line);
  if (same(word, "up")) {
    bring_up(line);
  } else if (same(word, "listen")) {
    listen_on(next_number(&line));
  } else if (same(word, "accept")) {
    take((int)SYS(43, listener, 0, 0, 0), "accepted");
  } else if (same(word, "connect")) {
    connect_to(line);
  } else if (same(word, "send") || same(word, "receive")) {
    u64 seed = next_number(&line);
    transfer("net", stream, same(word, "send"), seed, next_number(&line) << 10);
  } else if (same(word, "close")) {
    close_fd(stream);
    stream = -1;
    say("closed", 0);
  } else {
    print("net: what is \"%s\"?\n", word);
  }
}
