// LD_PRELOADed into vmmd: every read and write of a file gets at most SHORT_IO bytes (default: a third of
// what was asked for, but at least 1), and every fifth is interrupted with EINTR first. A kernel may do both.
// Only regular files that are on disks: eventfds, sockets and /proc have rules of their own.
#include <dlfcn.h>
#include <errno.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

typedef ssize_t (*read_at)(int, void*, size_t, off_t);
typedef ssize_t (*write_at)(int, const void*, size_t, off_t);

static _Thread_local unsigned calls;

static int interrupted(int fd, size_t* size) {
  struct stat info;
  struct statfs where;
  if (*size < 2 || fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) return 0;
  if (fstatfs(fd, &where) != 0 || where.f_type == PROC_SUPER_MAGIC || where.f_type == SYSFS_MAGIC) return 0;
  const char* limit = getenv("SHORT_IO");
  size_t most = limit ? strtoul(limit, NULL, 10) : *size / 3;
  if (most < 1) most = 1;
  if (*size > most) *size = most;
  if (++calls % 5 != 0) return 0;
  errno = EINTR;
  return 1;
}

#define SHORT_READ(name)                                                 \
  ssize_t name(int fd, void* to, size_t size, off_t at) {                \
    if (interrupted(fd, &size)) return -1;                               \
    return ((read_at)(size_t)dlsym(RTLD_NEXT, #name))(fd, to, size, at); \
  }
#define SHORT_WRITE(name)                                                   \
  ssize_t name(int fd, const void* from, size_t size, off_t at) {           \
    if (interrupted(fd, &size)) return -1;                                  \
    return ((write_at)(size_t)dlsym(RTLD_NEXT, #name))(fd, from, size, at); \
  }
SHORT_READ(pread)
SHORT_READ(pread64)
SHORT_WRITE(pwrite)
SHORT_WRITE(pwrite64)
