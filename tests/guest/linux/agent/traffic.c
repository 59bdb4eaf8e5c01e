// Numbered, checksummed records over the network, by processes that go on until they are stopped.
#include "commands.h"
#include "text.h"

enum { kInternet = 2, kStream = 1, kDatagram = 2, kEcho = 1024, kMostDatagram = 1400, kSendRoom = 8192 };

static struct traffic {  // shared with the children
  u64 stop;
  u64 sending;
  u64 sent;    // the number of the next datagram
  u64 echoed;  // records
  u64 failed;  // errno of whichever failed first; 1: a record came torn, or not in its turn
}* traffic;

struct address {
  uint16_t family;
  u8 port[2];
  u8 ip[4];
  u8 zero[8];
};

static void fail(long error) {
  u64 none = 0;
  __atomic_compare_exchange_n(&traffic->failed, &none, (u64)error, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

__attribute__((noreturn)) static void leave(void) {
  for (;;) SYS(60, 0, 0, 0, 0);  // exit
}

// What the kernel holds for us is small, so that the device's queue is what fills up.
__attribute__((noreturn)) static void send_for_ever(const struct address* to, u64 seed, u64 size) {
  static u64 record[kMostDatagram / 8];
  int room = kSendRoom;
  int fd = (int)SYS(41, kInternet, kDatagram, 0, 0);
  sys(54, fd, 1 /* SOL_SOCKET */, 7 /* SO_SNDBUF */, (long)&room, sizeof room, 0);
  while (!__atomic_load_n(&traffic->stop, __ATOMIC_ACQUIRE)) {
    fill_record(record, size / 8, traffic->sent, seed);
    long n = sys(44, fd, (long)record, (long)size, 0, (long)to, sizeof *to);  // sendto
    if (n != (long)size) {
      fail(n < 0 ? -n : 5);
      break;
    }
    __atomic_store_n(&traffic->sent, traffic->sent + 1, __ATOMIC_RELEASE);
  }
  __atomic_store_n(&traffic->sending, 0, __ATOMIC_RELEASE);
  leave();
}

// All of it, or the error; 0: the stream has ended.
static long whole_of(int fd, u8* bytes, size_t size, bool write) {
  for (size_t done = 0; done < size;) {
    long n = write ? write_fd(fd, bytes + done, size - done) : read_fd(fd, bytes + done, size - done);
    if (n <= 0) return n;
    done += (size_t)n;
  }
  return (long)size;
}

__attribute__((noreturn)) static void echo_for_ever(const struct address* to, u64 seed) {
  static u64 record[kEcho / 8], scratch[kEcho / 8];
  int fd = (int)SYS(41, kInternet, kStream, 0, 0);
  long n = SYS(42, fd, to, sizeof *to, 0);  // connect
  for (u64 number = 0; n >= 0; number++) {
    n = whole_of(fd, (u8*)record, kEcho, false);
    if (n <= 0) break;
    if (!record_is_whole(record, scratch, kEcho / 8, seed) || record[0] != number) n = -1;
    if (n > 0) n = whole_of(fd, (u8*)record, kEcho, true);
    if (n > 0) __atomic_store_n(&traffic->echoed, number + 1, __ATOMIC_RELEASE);
  }
  if (n < 0) fail(-n);
  close_fd(fd);
  leave();
}

void run_traffic(char* line) {
  const char* word = next_word(&line);
  if (!traffic) traffic = map(sizeof *traffic, kShared | kAnonymous, -1, 0);
  if (same(word, "stop")) {
    __atomic_store_n(&traffic->stop, 1, __ATOMIC_RELEASE);
    while (__atomic_load_n(&traffic->sending, __ATOMIC_ACQUIRE)) pause_for(5);
    print("traffic stopped %u %u %u\n", traffic->sent, traffic->echoed, traffic->failed);
    return;
  }
  bool echo = same(word, "echo");
  struct address to = {.family = kInternet};
  internet_address(next_word(&line), to.ip);
  u64 port = next_number(&line), seed = next_number(&line), size = next_number(&line) / 8 * 8;
  to.port[0] = (u8)(port >> 8);
  to.port[1] = (u8)port;
  if (!echo && (size < 24 || size > kMostDatagram)) {
    print("traffic: no datagrams of %u bytes\n", size);
    return;
  }
  if (!echo) traffic->sending = 1;
  if (SYS(57, 0, 0, 0, 0) == 0) {  // fork
    if (echo)
      echo_for_ever(&to, seed);
    else
      send_for_ever(&to, seed, size);
  }
  print("traffic started\n");
}
