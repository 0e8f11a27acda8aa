/* Writes down, in order, what a process does to the files below FAST_DAG_ROOT, for
   tests/store/test_power.py. Nothing is synced: what a sync promises is only written down. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *root;
static int trace = -1;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FAST_DAG_TRACE");
    root = getenv("FAST_DAG_ROOT");
    if (root && path)
        trace = REAL(open)(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static int is_below(const char *path) {
    return trace >= 0 && path && strncmp(path, root, strlen(root)) == 0;
}

static int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = trace < 0 ? -1 : readlink(link, path, PATH_MAX - 1);
    path[size < 0 ? 0 : size] = 0;
    return is_below(path);
}

static void put(const void *data, size_t size) {
    if (REAL(write)(trace, data, size) != (ssize_t)size)
        abort();
}

static void note(char op, const char *path, uint64_t at, const void *data, uint64_t size) {
    uint64_t head[4] = {op, strlen(path), at, size};
    put(head, sizeof head);
    put(path, head[1]);
    if (size)
        put(data, size);
}

static int opened(const char *path, int flags, mode_t mode) {
    struct stat known;
    pthread_mutex_lock(&lock);
    int is_new = (flags & O_CREAT) && is_below(path) && stat(path, &known) != 0;
    int fd = REAL(open64)(path, flags, mode);
    if (fd >= 0 && is_new)
        note('C', path, 0, 0, 0);
    else if (fd >= 0 && (flags & O_TRUNC) && is_below(path))
        note('T', path, 0, 0, 0);
    pthread_mutex_unlock(&lock);
    return fd;
}

#define OPEN(name)                                                                             \
    int name(const char *path, int flags, ...) {                                               \
        va_list more;                                                                          \
        va_start(more, flags);                                                                 \
        mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0;                              \
        va_end(more);                                                                          \
        return opened(path, flags, mode);                                                      \
    }
OPEN(open)
OPEN(open64)

ssize_t write(int fd, const void *data, size_t size) {
    char path[PATH_MAX];
    if (!path_of(fd, path))
        return REAL(write)(fd, data, size);
    pthread_mutex_lock(&lock);
    off_t at = lseek(fd, 0, fcntl(fd, F_GETFL) & O_APPEND ? SEEK_END : SEEK_CUR);
    ssize_t done = REAL(write)(fd, data, size);
    if (done > 0)
        note('W', path, at, data, done);
    pthread_mutex_unlock(&lock);
    return done;
}

#define PWRITE(name)                                                                           \
    ssize_t name(int fd, const void *data, size_t size, off_t at) {                            \
        char path[PATH_MAX];                                                                   \
        pthread_mutex_lock(&lock);                                                             \
        ssize_t done = REAL(pwrite64)(fd, data, size, at);                                     \
        if (done > 0 && path_of(fd, path))                                                     \
            note('W', path, at, data, done);                                                   \
        pthread_mutex_unlock(&lock);                                                           \
        return done;                                                                           \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

#define TRUNCATE(name)                                                                         \
    int name(int fd, off_t size) {                                                             \
        char path[PATH_MAX];                                                                   \
        pthread_mutex_lock(&lock);                                                             \
        int done = REAL(ftruncate64)(fd, size);                                                \
        if (done == 0 && path_of(fd, path))                                                    \
            note('T', path, size, 0, 0);                                                       \
        pthread_mutex_unlock(&lock);                                                           \
        return done;                                                                           \
    }
TRUNCATE(ftruncate)
TRUNCATE(ftruncate64)

#define SYNC(name)                                                                             \
    int name(int fd) {                                                                         \
        char path[PATH_MAX];                                                                   \
        pthread_mutex_lock(&lock);                                                             \
        if (path_of(fd, path))                                                                 \
            note('S', path, 0, 0, 0);                                                          \
        pthread_mutex_unlock(&lock);                                                           \
        return 0;                                                                              \
    }
SYNC(fsync)
SYNC(fdatasync)

int mkdir(const char *path, mode_t mode) {
    pthread_mutex_lock(&lock);
    int done = REAL(mkdir)(path, mode);
    if (done == 0 && is_below(path))
        note('D', path, 0, 0, 0);
    pthread_mutex_unlock(&lock);
    return done;
}

int rename(const char *old, const char *new) {
    pthread_mutex_lock(&lock);
    int done = REAL(rename)(old, new);
    if (done == 0 && is_below(new))
        note('R', old, 0, new, strlen(new));
    pthread_mutex_unlock(&lock);
    return done;
}

int unlink(const char *path) {
    pthread_mutex_lock(&lock);
    int done = REAL(unlink)(path);
    if (done == 0 && is_below(path))
        note('U', path, 0, 0, 0);
    pthread_mutex_unlock(&lock);
    return done;
}
