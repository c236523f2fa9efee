/* Loaded before the C library (LD_PRELOAD) by faults.py: one chosen call on the files of a run fails, or is the last.

   Calls whose path lies below a folder are counted, whoever makes them: Python, SQLite, a codec. When the count reaches
   the chosen number, the deed is done. The board is memory shared with the process that started the run, which reads
   from it how many calls there were, and which one was hit. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { CREATE = 1, OPEN = 2, WRITE = 4, SYNC = 8, RENAME = 16, MKDIR = 32, UNLINK = 64, READ = 128, EVENT = 256,
       CLOSE = 512 };
enum { FAIL, KILL_BEFORE, KILL_AFTER, TEAR, TERMINATE, VANISH, CLOCK, REMOVE, GROW, CUT,
       KILL_ALONE };
enum { GO_ON, SUFFER, DIE_AFTER, DIE_TORN };

struct board { long calls, hits, clock_s; char what[16], path[PATH_MAX]; };
static struct board *board;
static char below[PATH_MAX], events[PATH_MAX];
static int armed, mask, deed, number, lasting;
static long chosen;

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

struct board *faults_board(void) {
    if (!board)
        board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    memset(board, 0, sizeof *board);
    return board;
}

void faults_arm(const char *folder, const char *stdout_file, int calls, long nth, int what, int error, int for_good) {
    strncpy(below, folder, PATH_MAX - 1);
    strncpy(events, stdout_file, PATH_MAX - 1);
    mask = calls, chosen = nth, deed = what, number = error, lasting = for_good, armed = 1;
}

static void die(void) {
    kill(0, SIGKILL); /* the process group: a container that is killed, a host that loses power */
    for (;;) pause();
}

static int fate(int call, const char *name, const char *path) {
    size_t length = strlen(below);
    if (!armed || !path) return GO_ON;
    if (call == WRITE && !strcmp(path, events)) call = EVENT;
    else if (strncmp(path, below, length) || (path[length] && path[length] != '/')) return GO_ON;
    if (!(mask & call)) return GO_ON;
    long count = __sync_add_and_fetch(&board->calls, 1);
    if (count != chosen && !(lasting && chosen && count > chosen)) return GO_ON;
    if (!board->hits++) {
        strncpy(board->what, name, sizeof board->what - 1);
        strncpy(board->path, path, sizeof board->path - 1);
    }
    char aside[PATH_MAX + 8];
    armed = 0;
    int outcome = GO_ON, descriptor;
    struct stat found;
    switch (deed) {
    case FAIL: outcome = SUFFER; break;
    case KILL_BEFORE: die(); break;
    case KILL_AFTER: outcome = DIE_AFTER; break;
    case TEAR: outcome = DIE_TORN; break;
    case TERMINATE: kill(getpgrp(), SIGTERM); break; /* the leader, as `docker stop` does */
    case VANISH: snprintf(aside, sizeof aside, "%s.gone", below); rename(below, aside); break;
    case KILL_ALONE: kill(getpid(), SIGKILL); break; /* the kernel, for want of memory */
    case CLOCK: board->clock_s = number; break;
    case REMOVE: unlink(path); break;
    case CUT: if (!stat(path, &found)) truncate(path, found.st_size / 2); break;
    case GROW:
        descriptor = open(path, O_WRONLY | O_APPEND);
        if (descriptor >= 0) { write(descriptor, below, sizeof below); close(descriptor); }
        break;
    }
    armed = 1;
    return outcome;
}

static int fate_of(int call, const char *name, int descriptor) {
    char link[64], path[PATH_MAX];
    if (!armed) return GO_ON;
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = before;
    if (length < 0) return GO_ON;
    path[length] = 0;
    return fate(call, name, path);
}

static int fate_at(int call, const char *name, int folder, const char *path) {
    char link[64], whole[2 * PATH_MAX];
    if (!armed || !path) return GO_ON;
    if (path[0] == '/' || folder == AT_FDCWD) return fate(call, name, path);
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    ssize_t length = readlink(link, whole, PATH_MAX - 1);
    errno = before;
    if (length < 0) return GO_ON;
    snprintf(whole + length, sizeof whole - length, "/%s", path);
    return fate(call, name, whole);
}

#define AS_FATED(what, call) \
    int comes = what; \
    if (comes == SUFFER) { errno = number; return -1; } \
    __typeof__(call) result = call; \
    if (comes == DIE_AFTER || comes == DIE_TORN) die(); \
    return result

#define OPENING(flags) ((flags) & (O_CREAT | O_WRONLY | O_RDWR) ? CREATE : OPEN)
#define MODE(flags, last) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, last); mode = va_arg(rest, mode_t); va_end(rest); }

int open(const char *path, int flags, ...) {
    REAL(open);
    MODE(flags, flags)
    AS_FATED(fate(OPENING(flags), "open", path), real(path, flags, mode));
}

int open64(const char *path, int flags, ...) {
    REAL(open64);
    MODE(flags, flags)
    AS_FATED(fate(OPENING(flags), "open", path), real(path, flags, mode));
}

int openat(int folder, const char *path, int flags, ...) {
    REAL(openat);
    MODE(flags, flags)
    AS_FATED(fate_at(OPENING(flags), "open", folder, path), real(folder, path, flags, mode));
}

int openat64(int folder, const char *path, int flags, ...) {
    REAL(openat64);
    MODE(flags, flags)
    AS_FATED(fate_at(OPENING(flags), "open", folder, path), real(folder, path, flags, mode));
}

int close(int descriptor) {
    REAL(close);
    int writes = armed && (fcntl(descriptor, F_GETFL) & O_ACCMODE) != O_RDONLY;
    int what_comes = writes ? fate_of(CLOSE, "close", descriptor) : GO_ON;
    int result = real(descriptor); /* closed whatever it says, as Linux does */
    if (what_comes == DIE_AFTER || what_comes == DIE_TORN) die();
    if (what_comes == SUFFER) { errno = number; return -1; }
    return result;
}

static ssize_t written(int comes, ssize_t half) {
    if (comes == DIE_TORN) die();
    if (lasting && number == ENOSPC && half > 0) return half; /* a disk takes what it can */
    errno = number;
    return -1;
}

ssize_t write(int descriptor, const void *bytes, size_t size) {
    REAL(write);
    int what_comes = fate_of(WRITE, "write", descriptor);
    if (what_comes == DIE_TORN || (what_comes == SUFFER && board->hits == 1))
        return written(what_comes, real(descriptor, bytes, size / 2));
    AS_FATED(what_comes, real(descriptor, bytes, size));
}

ssize_t pwrite64(int descriptor, const void *bytes, size_t size, off64_t offset) {
    REAL(pwrite64);
    int what_comes = fate_of(WRITE, "write", descriptor);
    if (what_comes == DIE_TORN || (what_comes == SUFFER && board->hits == 1))
        return written(what_comes, real(descriptor, bytes, size / 2, offset));
    AS_FATED(what_comes, real(descriptor, bytes, size, offset));
}

ssize_t read(int descriptor, void *bytes, size_t size) {
    REAL(read);
    AS_FATED(fate_of(READ, "read", descriptor), real(descriptor, bytes, size));
}

int fsync(int descriptor) {
    REAL(fsync);
    AS_FATED(fate_of(SYNC, "fsync", descriptor), real(descriptor));
}

int fdatasync(int descriptor) {
    REAL(fdatasync);
    AS_FATED(fate_of(SYNC, "fdatasync", descriptor), real(descriptor));
}

int rename(const char *from, const char *to) {
    REAL(rename);
    AS_FATED(fate(RENAME, "rename", to), real(from, to));
}

int link(const char *from, const char *to) {
    REAL(link);
    AS_FATED(fate(RENAME, "link", to), real(from, to));
}

int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    AS_FATED(fate(MKDIR, "mkdir", path), real(path, mode));
}

int unlink(const char *path) {
    REAL(unlink);
    AS_FATED(fate(UNLINK, "unlink", path), real(path));
}

int unlinkat(int folder, const char *path, int flags) {
    REAL(unlinkat);
    AS_FATED(fate_at(UNLINK, "unlink", folder, path), real(folder, path, flags));
}

int rmdir(const char *path) {
    REAL(rmdir);
    AS_FATED(fate(UNLINK, "rmdir", path), real(path));
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    REAL(clock_gettime);
    int result = real(clock, now);
    if (!result && board && armed && clock == CLOCK_REALTIME) now->tv_sec += board->clock_s;
    return result;
}
