/* Preloaded into a process, this counts the calls of the C library that touch files under one folder, writes them down,
 * and strikes at one of them: the process is killed there, or the call fails.
 *
 * The calls go on as system calls, not to the C library's next symbol: one way in, whatever name was called.
 * What the C library does inside itself (fwrite's own write) does not pass here. The tests notice that: the record,
 * replayed, would not give the folder that is really there.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static char watched[PATH_MAX]; /* the folder; empty: nothing is watched */
static char mode[16];          /* record, kill, half (a write, then kill), short (half a write), stop, fail, broken */
static char refused[64];       /* a call that this file system does not know, such as link */
static int log_file = -1;
static long count, strike_at;
static int error_number;
/* One counted call at a time, also where threads make them: so the record is in the order in which things happened. */
static pthread_mutex_t in_a_call = PTHREAD_MUTEX_INITIALIZER;

struct call {
    const char *name;
    int counts; /* it touches the watched folder */
    char path[PATH_MAX], target[PATH_MAX];
    unsigned long inode;
    long number, other; /* what they mean depends on the call: see the functions below */
    const void *data;
};

void faults_arm(const char *folder, const char *how, long at, int error, const char *refuse, const char *log_path) {
    snprintf(mode, sizeof mode, "%s", how);
    snprintf(refused, sizeof refused, "%s", refuse);
    strike_at = at;
    error_number = error;
    count = 0;
    log_file = *log_path ? (int)syscall(SYS_openat, AT_FDCWD, log_path, O_WRONLY | O_CREAT | O_APPEND, 0600) : -1;
    snprintf(watched, sizeof watched, "%s", folder);
}

long faults_disarm(void) {
    watched[0] = 0;
    if (log_file >= 0) syscall(SYS_close, log_file);
    log_file = -1;
    return count;
}

static const char *environment(const char *name, const char *otherwise) {
    const char *value = getenv(name);
    return value ? value : otherwise;
}

__attribute__((constructor)) static void arm_from_environment(void) {
    if (getenv("FAULTS_FOLDER"))
        faults_arm(getenv("FAULTS_FOLDER"), environment("FAULTS_MODE", "record"), atol(environment("FAULTS_AT", "0")),
                   atoi(environment("FAULTS_ERROR", "0")), environment("FAULTS_REFUSED", ""),
                   environment("FAULTS_LOG", ""));
}

/* Which calls count */

static int is_watched(const char *path) {
    size_t length = strlen(watched);
    return length && !strncmp(path, watched, length) && (path[length] == '/' || !path[length]);
}

static void path_of(int file, char *path) {
    char link[64];
    snprintf(link, sizeof link, file == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
}

static void resolve(int folder, const char *path, char *resolved) {
    char base[PATH_MAX] = "";
    if (*path != '/') path_of(folder, base);
    snprintf(resolved, PATH_MAX, "%.2000s%s%.2000s", base, *base ? "/" : "", path);
}

static struct call on_path(const char *name, int folder, const char *path) {
    struct call call = {.name = name};
    struct stat status;
    if (!*watched) return call;
    resolve(folder, path, call.path);
    call.counts = is_watched(call.path);
    if (call.counts && !lstat(call.path, &status)) call.inode = status.st_ino;
    return call;
}

static struct call on_paths(const char *name, int folder, const char *path, int target_folder, const char *target) {
    struct call call = on_path(name, folder, path);
    if (!*watched) return call;
    resolve(target_folder, target, call.target);
    call.counts |= is_watched(call.target);
    return call;
}

static struct call on_file(const char *name, int file) {
    struct call call = {.name = name};
    struct stat status;
    if (!*watched || file == log_file) return call;
    path_of(file, call.path);
    call.counts = is_watched(call.path);
    if (call.counts && !fstat(file, &status)) call.inode = status.st_ino;
    return call;
}

/* What happens at a call */

static int is_mode(const char *name) { return !strcmp(mode, name); }

static void signal_here(int number) { syscall(SYS_kill, getpid(), number); }

/* Counts the call; true when it has to fail, and errno says how. `done` has to follow. */
static int struck(struct call *call) {
    if (!call->counts) return 0;
    pthread_mutex_lock(&in_a_call);
    int here = ++count == strike_at;
    if (here && (is_mode("kill") || (is_mode("half") && !call->data))) signal_here(SIGKILL);
    if (here && is_mode("stop")) signal_here(SIGSTOP);
    /* a broken disk stays broken, as a full one of a server does up to the close; files can still be removed */
    int stays = is_mode("broken") && count >= strike_at && strcmp(call->name, "unlink");
    int refuse = !strcmp(call->name, refused);
    if ((here && is_mode("fail")) || stays) errno = error_number;
    else if (refuse) errno = EPERM;
    else return 0;
    return 1;
}

/* How much of a write is done: half of it where a short or an interrupted one is asked for. */
static size_t allowed(const struct call *call, size_t length) {
    int here = call->counts && count == strike_at && (is_mode("half") || is_mode("short"));
    return here && length > 1 ? length / 2 : length;
}

static void write_down(const struct call *call, long result) {
    static const char digits[] = "0123456789abcdef";
    const unsigned char *bytes = call->data;
    dprintf(log_file, "%s\t%ld\t%d\t%lu\t%s\t%s\t%ld\t%ld\t", call->name, result, result < 0 ? errno : 0, call->inode,
            call->path, call->target, call->number, call->other);
    char *text = bytes && result > 0 ? malloc(2 * result) : NULL;
    for (long i = 0; text && i < result; i++) text[2 * i] = digits[bytes[i] >> 4], text[2 * i + 1] = digits[bytes[i] & 15];
    for (long at = 0; text && at < 2 * result;) {
        long written = syscall(SYS_write, log_file, text + at, 2 * result - at);
        if (written <= 0) break;
        at += written;
    }
    free(text);
    dprintf(log_file, "\n");
}

static long done(const struct call *call, long result) {
    int error = errno;
    if (call->counts && log_file >= 0) write_down(call, result);
    if (call->counts && call->data && count == strike_at && is_mode("half")) signal_here(SIGKILL);
    if (call->counts) pthread_mutex_unlock(&in_a_call);
    errno = error;
    return result;
}

#define THROUGH(call, system_call) (struck(&(call)) ? done(&(call), -1) : done(&(call), system_call))

/* Opening, closing. Of an open: the flags, and whether the file was there before. */

static int open_at(int folder, const char *path, int flags, mode_t permissions) {
    struct call call = on_path("open", folder, path);
    call.number = flags;
    call.other = call.inode != 0;
    if (struck(&call)) return (int)done(&call, -1);
    int file = (int)syscall(SYS_openat, folder, path, flags, permissions);
    struct stat status;
    if (call.counts && file >= 0 && !fstat(file, &status)) call.inode = status.st_ino;
    return (int)done(&call, file);
}

#define PERMISSIONS(flags)                                       \
    va_list rest;                                                \
    va_start(rest, flags);                                       \
    mode_t permissions = (mode_t)va_arg(rest, unsigned);         \
    va_end(rest);                                                \
    if (!((flags) & (O_CREAT | O_TMPFILE))) permissions = 0;

int open(const char *path, int flags, ...) { PERMISSIONS(flags) return open_at(AT_FDCWD, path, flags, permissions); }
int open64(const char *path, int flags, ...) { PERMISSIONS(flags) return open_at(AT_FDCWD, path, flags, permissions); }
int openat(int folder, const char *path, int flags, ...) { PERMISSIONS(flags) return open_at(folder, path, flags, permissions); }
int openat64(int folder, const char *path, int flags, ...) { PERMISSIONS(flags) return open_at(folder, path, flags, permissions); }
int creat(const char *path, mode_t permissions) { return open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, permissions); }
int creat64(const char *path, mode_t permissions) { return creat(path, permissions); }

DIR *opendir(const char *path) {
    struct call call = on_path("opendir", AT_FDCWD, path);
    if (struck(&call)) return done(&call, -1), NULL;
    DIR *(*next)(const char *) = (DIR * (*)(const char *)) dlsym(RTLD_NEXT, "opendir");
    DIR *folder = next(path);
    done(&call, folder ? 0 : -1);
    return folder;
}

int close(int file) {
    struct call call = on_file("close", file);
    if (!struck(&call)) return (int)done(&call, syscall(SYS_close, file));
    int error = errno;
    syscall(SYS_close, file); /* as on Linux: the file is closed, also where that failed */
    errno = error;
    return (int)done(&call, -1);
}

/* Reading */

ssize_t read(int file, void *data, size_t length) {
    struct call call = on_file("read", file);
    return THROUGH(call, syscall(SYS_read, file, data, length));
}
ssize_t pread64(int file, void *data, size_t length, off64_t offset) {
    struct call call = on_file("read", file);
    return THROUGH(call, syscall(SYS_pread64, file, data, length, offset));
}
ssize_t pread(int file, void *data, size_t length, off_t offset) { return pread64(file, data, length, offset); }
ssize_t preadv64(int file, const struct iovec *pieces, int number, off64_t offset) {
    struct call call = on_file("read", file);
    return THROUGH(call, syscall(SYS_preadv, file, pieces, number, offset, 0));
}
ssize_t preadv(int file, const struct iovec *pieces, int number, off_t offset) { return preadv64(file, pieces, number, offset); }

/* Writing. Of a write: where in the file, how much was asked for, and the bytes. */

static long place(int file) {
    struct stat status;
    if (fcntl(file, F_GETFL) & O_APPEND) return fstat(file, &status) ? 0 : status.st_size;
    return lseek(file, 0, SEEK_CUR);
}

static struct call writing(int file, const void *data, size_t length, long offset) {
    struct call call = on_file("write", file);
    call.data = data;
    call.other = (long)length;
    if (call.counts) call.number = offset < 0 ? place(file) : offset;
    return call;
}

ssize_t write(int file, const void *data, size_t length) {
    struct call call = writing(file, data, length, -1);
    return THROUGH(call, syscall(SYS_write, file, data, allowed(&call, length)));
}
ssize_t pwrite64(int file, const void *data, size_t length, off64_t offset) {
    struct call call = writing(file, data, length, offset);
    return THROUGH(call, syscall(SYS_pwrite64, file, data, allowed(&call, length), offset));
}
ssize_t pwrite(int file, const void *data, size_t length, off_t offset) { return pwrite64(file, data, length, offset); }

/* A write of several pieces may stop after the first one: callers have to go on from there anyway. */
static const struct iovec *first_piece(const struct iovec *pieces, int number) {
    while (number > 1 && !pieces->iov_len) pieces++, number--;
    return pieces;
}
ssize_t writev(int file, const struct iovec *pieces, int number) {
    const struct iovec *first = first_piece(pieces, number);
    return on_file("write", file).counts ? write(file, first->iov_base, first->iov_len)
                                         : syscall(SYS_writev, file, pieces, number);
}
ssize_t pwritev64v2(int file, const struct iovec *pieces, int number, off64_t offset, int flags) {
    const struct iovec *first = first_piece(pieces, number);
    if (on_file("write", file).counts) return pwrite64(file, first->iov_base, first->iov_len, offset);
    return syscall(SYS_pwritev2, file, pieces, (long)number, (long)offset, 0L, flags);
}

/* A copy inside the kernel is written down as a write of the bytes that it read. */
static ssize_t copied(int target, long offset, int source, long from, size_t length, int whole, off64_t *read_at,
                      off64_t *write_at) {
    size_t most = length < (64u << 20) ? length : (64u << 20);
    void *data = *watched ? malloc(most) : NULL;
    ssize_t known = data ? syscall(SYS_pread64, source, data, most, from) : 0;
    struct call call = writing(target, data, length, offset);
    if (call.counts && known >= 0 && (size_t)known < length) length = (size_t)known;
    long result = struck(&call) ? -1
                  : whole       ? syscall(SYS_sendfile, target, source, read_at, allowed(&call, length))
                                : syscall(SYS_copy_file_range, source, read_at, target, write_at, allowed(&call, length), 0);
    done(&call, result);
    free(data);
    return result;
}
ssize_t sendfile64(int target, int source, off64_t *read_at, size_t length) {
    return copied(target, -1, source, read_at ? *read_at : lseek(source, 0, SEEK_CUR), length, 1, read_at, NULL);
}
ssize_t sendfile(int target, int source, off_t *read_at, size_t length) { return sendfile64(target, source, read_at, length); }
ssize_t copy_file_range(int source, off64_t *read_at, int target, off64_t *write_at, size_t length, unsigned flags) {
    (void)flags;
    return copied(target, write_at ? *write_at : -1, source, read_at ? *read_at : lseek(source, 0, SEEK_CUR), length, 0,
                  read_at, write_at);
}

int ftruncate64(int file, off64_t length) {
    struct call call = on_file("truncate", file);
    call.number = length;
    return (int)THROUGH(call, syscall(SYS_ftruncate, file, length));
}
int ftruncate(int file, off_t length) { return ftruncate64(file, length); }
int truncate64(const char *path, off64_t length) {
    struct call call = on_path("truncate", AT_FDCWD, path);
    call.number = length;
    return (int)THROUGH(call, syscall(SYS_truncate, path, length));
}
int truncate(const char *path, off_t length) { return truncate64(path, length); }

int fallocate64(int file, int how, off64_t offset, off64_t length) {
    struct call call = on_file("fallocate", file);
    return (int)THROUGH(call, syscall(SYS_fallocate, file, how, offset, length));
}
int fallocate(int file, int how, off_t offset, off_t length) { return fallocate64(file, how, offset, length); }
int posix_fallocate64(int file, off64_t offset, off64_t length) { return fallocate64(file, 0, offset, length) ? errno : 0; }
int posix_fallocate(int file, off_t offset, off_t length) { return posix_fallocate64(file, offset, length); }

/* Memory that is a file: only what changes the file. */
void *mmap64(void *address, size_t length, int protection, int flags, int file, off64_t offset) {
    struct call call = {.name = "mmap"};
    if ((flags & MAP_SHARED) && (protection & PROT_WRITE)) call = on_file("mmap", file);
    return (void *)THROUGH(call, syscall(SYS_mmap, address, length, protection, flags, file, offset));
}
void *mmap(void *address, size_t length, int protection, int flags, int file, off_t offset) {
    return mmap64(address, length, protection, flags, file, offset);
}

/* To the disk */

int fsync(int file) {
    struct call call = on_file("fsync", file);
    return (int)THROUGH(call, syscall(SYS_fsync, file));
}
int fdatasync(int file) {
    struct call call = on_file("fsync", file);
    return (int)THROUGH(call, syscall(SYS_fdatasync, file));
}

/* Names */

int renameat2(int folder, const char *path, int target_folder, const char *target, unsigned flags) {
    struct call call = on_paths("rename", folder, path, target_folder, target);
    call.number = flags;
    return (int)THROUGH(call, syscall(SYS_renameat2, folder, path, target_folder, target, flags));
}
int renameat(int folder, const char *path, int target_folder, const char *target) {
    return renameat2(folder, path, target_folder, target, 0);
}
int rename(const char *path, const char *target) { return renameat2(AT_FDCWD, path, AT_FDCWD, target, 0); }

int linkat(int folder, const char *path, int target_folder, const char *target, int flags) {
    struct call call = on_paths("link", folder, path, target_folder, target);
    return (int)THROUGH(call, syscall(SYS_linkat, folder, path, target_folder, target, flags));
}
int link(const char *path, const char *target) { return linkat(AT_FDCWD, path, AT_FDCWD, target, 0); }

int symlinkat(const char *pointed, int folder, const char *path) {
    struct call call = on_path("symlink", folder, path);
    return (int)THROUGH(call, syscall(SYS_symlinkat, pointed, folder, path));
}
int symlink(const char *pointed, const char *path) { return symlinkat(pointed, AT_FDCWD, path); }

int unlinkat(int folder, const char *path, int flags) {
    struct call call = on_path("unlink", folder, path);
    return (int)THROUGH(call, syscall(SYS_unlinkat, folder, path, flags));
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdirat(int folder, const char *path, mode_t permissions) {
    struct call call = on_path("mkdir", folder, path);
    return (int)THROUGH(call, syscall(SYS_mkdirat, folder, path, permissions));
}
int mkdir(const char *path, mode_t permissions) { return mkdirat(AT_FDCWD, path, permissions); }

int fchmodat(int folder, const char *path, mode_t permissions, int flags) {
    struct call call = on_path("chmod", folder, path);
    (void)flags;
    return (int)THROUGH(call, syscall(SYS_fchmodat, folder, path, permissions));
}
int chmod(const char *path, mode_t permissions) { return fchmodat(AT_FDCWD, path, permissions, 0); }
int fchmod(int file, mode_t permissions) {
    struct call call = on_file("chmod", file);
    return (int)THROUGH(call, syscall(SYS_fchmod, file, permissions));
}
