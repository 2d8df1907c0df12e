/* Preloaded before libc: reads of some files fail, or are slow, as a disk would have it.

   FAULTS is "kind:part of the path:N", where the first N reads go well; kind is one of
     eio     the read fails
     eintr   every second read is interrupted before it begins
     short   a read of more than a page brings half of its pages
     direct  direct reads are refused when the file is opened
     refuse  direct reads are refused when the file is read
     slow    a read takes so many milliseconds longer
   FAULTS_WHILE names a file; where it is given, nothing fails unless that file is there. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static char kind[16], part[256];
static long number;
static _Atomic long calls;

__attribute__((constructor)) static void parse(void) {
    const char *given = getenv("FAULTS");
    if (given && sscanf(given, "%15[^:]:%255[^:]:%ld", kind, part, &number) < 2) abort();
}

static int on(void) {
    const char *name = getenv("FAULTS_WHILE");
    return *kind && (!name || access(name, F_OK) == 0);
}

static int meant(int file) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0 || !on()) return 0;
    path[size] = 0;
    return strstr(path, part) != NULL;
}

typedef ssize_t Read(int, const struct iovec *, int, off_t, int);

static ssize_t faulty(Read *real, int file, const struct iovec *into, int count, off_t at, int flags) {
    if (!meant(file)) return real(file, into, count, at, flags);
    long turn = calls++;
    int slow = !strcmp(kind, "slow");
    if (slow) nanosleep(&(struct timespec){number / 1000, number % 1000 * 1000000}, NULL);
    if (slow || turn < number) return real(file, into, count, at, flags);
    struct iovec half = into[0];
    if (!strcmp(kind, "eio")) return errno = EIO, -1;
    if (!strcmp(kind, "eintr") && turn % 2) return errno = EINTR, -1;
    if (!strcmp(kind, "refuse") && fcntl(file, F_GETFL) & O_DIRECT) return errno = EINVAL, -1;
    if (!strcmp(kind, "short") && half.iov_len > 4096) {
        half.iov_len = (half.iov_len / 4096 + 1) / 2 * 4096;
        return real(file, &half, 1, at, flags);
    }
    return real(file, into, count, at, flags);
}

static Read *found(const char *name) {
    return (Read *)dlsym(RTLD_NEXT, name);
}

/* preadv takes no flags: a caller's fifth argument is not looked at. */
ssize_t preadv(int f, const struct iovec *v, int n, off_t at) { return faulty(found("preadv"), f, v, n, at, 0); }
ssize_t preadv64(int f, const struct iovec *v, int n, off_t at) { return faulty(found("preadv64"), f, v, n, at, 0); }
ssize_t preadv2(int f, const struct iovec *v, int n, off_t at, int o) { return faulty(found("preadv2"), f, v, n, at, o); }
ssize_t preadv64v2(int f, const struct iovec *v, int n, off_t at, int o) { return faulty(found("preadv64v2"), f, v, n, at, o); }

static int opened(const char *name, const char *path, int flags, mode_t mode) {
    if (on() && !strcmp(kind, "direct") && flags & O_DIRECT && strstr(path, part)) return errno = EINVAL, -1;
    return ((int (*)(const char *, int, ...))dlsym(RTLD_NEXT, name))(path, flags, mode);
}

static mode_t mode_of(int flags, va_list more) {
    return flags & (O_CREAT | __O_TMPFILE) ? va_arg(more, mode_t) : 0;
}

#define OPEN(NAME)                                                                                                   \
    int NAME(const char *path, int flags, ...) {                                                                     \
        va_list more;                                                                                                \
        va_start(more, flags);                                                                                       \
        mode_t mode = mode_of(flags, more);                                                                          \
        va_end(more);                                                                                                \
        return opened(#NAME, path, flags, mode);                                                                     \
    }
OPEN(open)
OPEN(open64)
