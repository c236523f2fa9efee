/* Loaded before the C library (LD_PRELOAD) by crash_states.py: writes down every call that changes a file system below a
   folder, in order and with what was written, whoever makes it: Python, SQLite, a codec.

   A record is a line of numbers (kind, length of path, length of other path, offset or size, length of data) and then
   the two paths and the data. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char below[PATH_MAX];
static int armed, log_file = -1;
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

static void all(const void *bytes, size_t size) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = (ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    for (const char *at = bytes; size;) {
        ssize_t done = real(log_file, at, size);
        if (done <= 0) return;
        at += done, size -= done;
    }
}

static int within(const char *path) {
    size_t length = strlen(below);
    return armed && path && !strncmp(path, below, length) && (!path[length] || path[length] == '/');
}

static void note(char kind, const char *path, const char *other, long long number, const void *data, size_t size) {
    if (!within(path) && !(other && within(other))) return;
    char head[128];
    int before = errno;
    if (!other) other = "";
    pthread_mutex_lock(&turn);
    snprintf(head, sizeof head, "%c %zu %zu %lld %zu\n", kind, strlen(path), strlen(other), number, size);
    all(head, strlen(head)), all(path, strlen(path)), all(other, strlen(other)), all(data, size);
    pthread_mutex_unlock(&turn);
    errno = before;
}

static const char *of(int descriptor, char *path) {
    char link[64];
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = armed ? readlink(link, path, PATH_MAX - 1) : -1;
    errno = before;
    path[length < 0 ? 0 : length] = 0;
    return path;
}

static const char *at(int folder, const char *name, char *path) {
    if (!armed || name[0] == '/' || folder == AT_FDCWD) return name;
    size_t length = strlen(of(folder, path));
    snprintf(path + length, PATH_MAX - length, "/%s", name);
    return path;
}

void record_from(const char *folder, int descriptor) {
    strncpy(below, folder, PATH_MAX - 1);
    log_file = descriptor, armed = 1;
}

void record_mark(const char *text) { note('K', below, text, 0, "", 0); }

void record_end(void) { armed = 0; }

#define MODE(flags, last) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, last); mode = va_arg(rest, mode_t); va_end(rest); }
#define OPENED(call, path) \
    int descriptor = call; \
    if (descriptor >= 0 && (flags) & (O_CREAT | O_TRUNC)) note('C', path, NULL, !!((flags) & O_TRUNC), "", 0); \
    return descriptor

int open(const char *path, int flags, ...) { REAL(open); MODE(flags, flags) OPENED(real(path, flags, mode), path); }

int open64(const char *path, int flags, ...) { REAL(open64); MODE(flags, flags) OPENED(real(path, flags, mode), path); }

int openat(int folder, const char *path, int flags, ...) {
    char whole[PATH_MAX];
    REAL(openat);
    MODE(flags, flags)
    OPENED(real(folder, path, flags, mode), at(folder, path, whole));
}

int openat64(int folder, const char *path, int flags, ...) {
    char whole[PATH_MAX];
    REAL(openat64);
    MODE(flags, flags)
    OPENED(real(folder, path, flags, mode), at(folder, path, whole));
}

ssize_t write(int descriptor, const void *bytes, size_t size) {
    char path[PATH_MAX];
    REAL(write);
    ssize_t done = real(descriptor, bytes, size);
    if (done > 0 && armed && within(of(descriptor, path)))
        note('W', path, NULL, lseek(descriptor, 0, SEEK_CUR) - done, bytes, done);
    return done;
}

#define WRITTEN(offset) \
    char path[PATH_MAX]; \
    ssize_t done = real(descriptor, bytes, size, offset); \
    if (done > 0 && armed) note('W', of(descriptor, path), NULL, offset, bytes, done); \
    return done

ssize_t pwrite(int descriptor, const void *bytes, size_t size, off_t offset) { REAL(pwrite); WRITTEN(offset); }
ssize_t pwrite64(int descriptor, const void *bytes, size_t size, off64_t offset) { REAL(pwrite64); WRITTEN(offset); }

ssize_t sendfile64(int to, int from, off64_t *offset, size_t size) {
    static ssize_t (*real)(int, int, off64_t *, size_t);
    if (!real) real = (ssize_t (*)(int, int, off64_t *, size_t))dlsym(RTLD_NEXT, "sendfile64");
    if (!armed) return real(to, from, offset, size);
    errno = EINVAL; /* then it is copied by read and write */
    return -1;
}

#define AFTER(call, ...) \
    __typeof__(call) result = call; \
    if (!result) note(__VA_ARGS__); \
    return result

int ftruncate(int descriptor, off_t size) {
    char path[PATH_MAX];
    REAL(ftruncate);
    AFTER(real(descriptor, size), 'T', of(descriptor, path), NULL, size, "", 0);
}

int ftruncate64(int descriptor, off64_t size) {
    char path[PATH_MAX];
    REAL(ftruncate64);
    AFTER(real(descriptor, size), 'T', of(descriptor, path), NULL, size, "", 0);
}

int fsync(int descriptor) {
    char path[PATH_MAX];
    REAL(fsync);
    AFTER(real(descriptor), 'S', of(descriptor, path), NULL, 0, "", 0);
}

int fdatasync(int descriptor) {
    char path[PATH_MAX];
    REAL(fdatasync);
    AFTER(real(descriptor), 'S', of(descriptor, path), NULL, 0, "", 0);
}

int rename(const char *from, const char *to) { REAL(rename); AFTER(real(from, to), 'R', from, to, 0, "", 0); }

int link(const char *from, const char *to) { REAL(link); AFTER(real(from, to), 'L', from, to, 0, "", 0); }

int linkat(int here, const char *from, int there, const char *to, int flags) {
    char one[PATH_MAX], two[PATH_MAX];
    REAL(linkat);
    AFTER(real(here, from, there, to, flags), 'L', at(here, from, one), at(there, to, two), 0, "", 0);
}

int mkdir(const char *path, mode_t mode) { REAL(mkdir); AFTER(real(path, mode), 'M', path, NULL, 0, "", 0); }

int unlink(const char *path) { REAL(unlink); AFTER(real(path), 'U', path, NULL, 0, "", 0); }

int rmdir(const char *path) { REAL(rmdir); AFTER(real(path), 'U', path, NULL, 0, "", 0); }

int unlinkat(int folder, const char *path, int flags) {
    char whole[PATH_MAX];
    REAL(unlinkat);
    AFTER(real(folder, path, flags), 'U', at(folder, path, whole), NULL, 0, "", 0);
}
