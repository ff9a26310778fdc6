/* A disk that forgets, under the program as it is shipped: whatever the program does to files below one directory is
 * written down here, with what was there before, so that a test can take back everything that was not flushed when the
 * process was killed.
 *
 * Loaded with LD_PRELOAD. The program makes many of its system calls without the C library, so no function is replaced:
 * a seccomp filter raises SIGSYS for the calls that matter, and the handler makes them itself, from one address that
 * the filter lets through. x86-64 Linux only.
 *
 * Reads of the program see everything, as the page cache shows it. Variables:
 *   POWERCUT_DIR          the directory, absolute
 *   POWERCUT_LOG          where to write down; records are struct note, then two paths, then bytes
 *   POWERCUT_AT           kill the process before its n-th operation on a file below the directory
 *   POWERCUT_BOOT         what the program reads in the place of the machine's boot id
 *   POWERCUT_IGNORE_SYNC  write no flush down, as if the program made none
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unistd.h>

#ifndef __x86_64__
#error "the registers of a system call are those of x86-64"
#endif

enum kind { WRITE = 1, SYNC_BEGIN, SYNC, CREATE, RENAME, UNLINK, DIR_SYNC, CUT };

struct note {
    uint32_t kind;
    uint32_t path_len, other_len;
    uint32_t data_len;
    uint64_t number;
    /* WRITE, CUT: where the bytes were. SYNC: the number of its SYNC_BEGIN. */
    uint64_t offset;
    /* WRITE, CUT: how long the file was. */
    uint64_t size;
};

enum { BLOCK = 512, PIECE = 64 << 10, PATH_LEN = 4096 };

static char dir[PATH_LEN], boot[PATH_LEN], saved[PATH_LEN];
static size_t dir_len;
static int log_fd = -1;
static int ignores_sync;
static uint64_t kill_at, operations, numbers;
static atomic_flag busy = ATOMIC_FLAG_INIT;
static char before[PIECE + 2 * BLOCK];

long call6(long nr, long a, long b, long c, long d, long e, long f);
extern char call6_return[];
__asm__(".text\n.globl call6\n.globl call6_return\n.type call6,@function\n"
        "call6:\n mov %rdi,%rax\n mov %rsi,%rdi\n mov %rdx,%rsi\n mov %rcx,%rdx\n mov %r8,%r10\n mov %r9,%r8\n"
        " mov 8(%rsp),%r9\n syscall\ncall6_return:\n ret\n");

static long call3(long nr, long a, long b, long c) { return call6(nr, a, b, c, 0, 0, 0); }

static long call4(long nr, long a, long b, long c, long d) { return call6(nr, a, b, c, d, 0, 0); }

static void lock(void) {
    while (atomic_flag_test_and_set_explicit(&busy, memory_order_acquire)) __builtin_ia32_pause();
}

static void unlock(void) { atomic_flag_clear_explicit(&busy, memory_order_release); }

static int is_below(const char *path) {
    return strncmp(path, dir, dir_len) == 0 && (path[dir_len] == '/' || path[dir_len] == 0);
}

/* The path of an open file below the directory, and what kind of file it is; 0 for any other. */
static int path_of(int fd, char *path, struct stat *stat) {
    char link[40] = "/proc/self/fd/";
    char digits[12];
    int count = 0, at = (int)strlen(link);
    if (fd < 0 || call3(SYS_fstat, fd, (long)stat, 0) < 0) return 0;
    if (!S_ISREG(stat->st_mode) && !S_ISDIR(stat->st_mode)) return 0;
    for (int rest = fd; count == 0 || rest > 0; rest /= 10) digits[count++] = (char)('0' + rest % 10);
    while (count > 0) link[at++] = digits[--count];
    link[at] = 0;
    long len = call3(SYS_readlink, (long)link, (long)path, PATH_LEN - 1);
    if (len <= 0) return 0;
    path[len] = 0;
    return is_below(path);
}

/* Counts an operation, and ends the process before it when its time has come. */
static void operation(void) {
    operations++;
    if (kill_at && operations == kill_at) {
        call3(SYS_kill, call3(SYS_getpid, 0, 0, 0), SIGKILL, 0);
        for (;;) call3(SYS_pause, 0, 0, 0);
    }
}

static uint64_t note(enum kind kind, const char *path, const char *other, uint64_t offset, uint64_t size,
                     const void *data, size_t len) {
    struct note it = {.kind = kind, .path_len = (uint32_t)strlen(path), .other_len = (uint32_t)strlen(other),
                      .data_len = (uint32_t)len, .number = ++numbers, .offset = offset, .size = size};
    struct iovec parts[4] = {{&it, sizeof it}, {(void *)path, it.path_len}, {(void *)other, it.other_len},
                             {(void *)data, len}};
    call3(SYS_writev, log_fd, (long)parts, 4);
    return it.number;
}

/* Writes down what a range of a file holds, whole blocks of it. */
static void remember(enum kind kind, int fd, const char *path, uint64_t size, uint64_t from, uint64_t to) {
    from -= from % BLOCK;
    while (from < to) {
        uint64_t len = to - from < PIECE ? (to - from + BLOCK - 1) / BLOCK * BLOCK : PIECE;
        memset(before, 0, len);
        if (from < size) call4(SYS_pread64, fd, (long)before, (long)len, (long)from);
        note(kind, path, "", from, size, before, len);
        from += len;
    }
}

static long bytes_of(const struct iovec *parts, long count) {
    long len = 0;
    for (long at = 0; at < count; at++) len += (long)parts[at].iov_len;
    return len;
}

/* The program may have opened the file for writing only. */
static long written(long nr, long *arg, long offset, long len) {
    char path[PATH_LEN];
    struct stat stat;
    int fd = (int)arg[0];
    if (fd == log_fd || !path_of(fd, path, &stat)) return call6(nr, arg[0], arg[1], arg[2], arg[3], arg[4], arg[5]);
    lock();
    operation();
    call3(SYS_fstat, fd, (long)&stat, 0);
    if (offset < 0) {
        long flags = call3(SYS_fcntl, fd, F_GETFL, 0);
        offset = flags & O_APPEND ? (long)stat.st_size : call3(SYS_lseek, fd, 0, SEEK_CUR);
    }
    long reader = call4(SYS_openat, AT_FDCWD, (long)path, O_RDONLY | O_CLOEXEC, 0);
    remember(WRITE, (int)reader, path, (uint64_t)stat.st_size, (uint64_t)offset, (uint64_t)(offset + len));
    call3(SYS_close, reader, 0, 0);
    long done = call6(nr, arg[0], arg[1], arg[2], arg[3], arg[4], arg[5]);
    unlock();
    return done;
}

static long resized(long nr, long *arg) {
    char path[PATH_LEN];
    struct stat stat;
    if (!path_of((int)arg[0], path, &stat)) return call4(nr, arg[0], arg[1], arg[2], arg[3]);
    lock();
    operation();
    uint64_t size = (uint64_t)stat.st_size;
    if (nr == SYS_ftruncate && (uint64_t)arg[1] < size) {
        long reader = call4(SYS_openat, AT_FDCWD, (long)path, O_RDONLY | O_CLOEXEC, 0);
        remember(CUT, (int)reader, path, size, (uint64_t)arg[1], size);
        call3(SYS_close, reader, 0, 0);
    } else {
        note(CUT, path, "", size, size, "", 0);
    }
    long done = call4(nr, arg[0], arg[1], arg[2], arg[3]);
    unlock();
    return done;
}

static long synced(long nr, long *arg) {
    char path[PATH_LEN];
    struct stat stat;
    if (!path_of((int)arg[0], path, &stat)) return call3(nr, arg[0], 0, 0);
    lock();
    operation();
    uint64_t begin = ignores_sync ? 0 : note(SYNC_BEGIN, path, "", 0, 0, "", 0);
    unlock();
    long done = call3(nr, arg[0], 0, 0);
    if (done == 0 && !ignores_sync) {
        lock();
        note(S_ISDIR(stat.st_mode) ? DIR_SYNC : SYNC, path, "", begin, 0, "", 0);
        unlock();
    }
    return done;
}

static int is_there(const char *path) {
    struct stat stat;
    return call4(SYS_newfstatat, AT_FDCWD, (long)path, (long)&stat, AT_SYMLINK_NOFOLLOW) == 0;
}

static long opened(long *arg) {
    const char *path = (const char *)arg[1];
    if (boot[0] && strcmp(path, "/proc/sys/kernel/random/boot_id") == 0) {
        return call4(SYS_openat, AT_FDCWD, (long)boot, arg[2], arg[3]);
    }
    if (!(arg[2] & (O_CREAT | O_TRUNC)) || !is_below(path)) return call4(SYS_openat, arg[0], arg[1], arg[2], arg[3]);
    lock();
    operation();
    int is_new = !is_there(path);
    long reader = is_new || !(arg[2] & O_TRUNC) ? -1 : call4(SYS_openat, AT_FDCWD, (long)path, O_RDONLY | O_CLOEXEC, 0);
    if (reader >= 0) {
        struct stat stat;
        call3(SYS_fstat, reader, (long)&stat, 0);
        remember(CUT, (int)reader, path, (uint64_t)stat.st_size, 0, (uint64_t)stat.st_size);
        call3(SYS_close, reader, 0, 0);
    }
    long done = call4(SYS_openat, arg[0], arg[1], arg[2], arg[3]);
    if (done >= 0 && is_new) note(CREATE, path, "", 0, 0, "", 0);
    unlock();
    return done;
}

static long renamed(const char *from, const char *to, long flags) {
    if (!is_below(from)) return call6(SYS_renameat2, AT_FDCWD, (long)from, AT_FDCWD, (long)to, flags, 0);
    lock();
    operation();
    long done = call6(SYS_renameat2, AT_FDCWD, (long)from, AT_FDCWD, (long)to, flags, 0);
    if (done == 0) note(RENAME, from, to, 0, 0, "", 0);
    unlock();
    return done;
}

static long removed(long at, const char *path, long flags) {
    if (!is_below(path) || flags & AT_REMOVEDIR) return call3(SYS_unlinkat, at, (long)path, flags);
    lock();
    operation();
    char *digit = saved + strlen(saved) - 8;
    for (uint64_t rest = numbers + 1, place = 8; place > 0; rest /= 10) digit[--place] = (char)('0' + rest % 10);
    call6(SYS_linkat, AT_FDCWD, (long)path, AT_FDCWD, (long)saved, 0, 0);
    long done = call3(SYS_unlinkat, at, (long)path, flags);
    if (done == 0) note(UNLINK, path, saved, 0, 0, "", 0);
    unlock();
    return done;
}

static long made(long nr, long *arg) {
    long at[4] = {AT_FDCWD, arg[0], arg[1], arg[2]};
    switch (nr) {
    case SYS_write: return written(nr, arg, -1, arg[2]);
    case SYS_pwrite64: return written(nr, arg, arg[3], arg[2]);
    case SYS_writev: return written(nr, arg, -1, bytes_of((const struct iovec *)arg[1], arg[2]));
    case SYS_pwritev:
    case SYS_pwritev2: return written(nr, arg, arg[3], bytes_of((const struct iovec *)arg[1], arg[2]));
    case SYS_ftruncate:
    case SYS_fallocate: return resized(nr, arg);
    case SYS_fsync:
    case SYS_fdatasync: return synced(nr, arg);
    case SYS_open: return opened(at);
    case SYS_openat: return opened(arg);
    case SYS_rename: return renamed((const char *)arg[0], (const char *)arg[1], 0);
    case SYS_renameat: return renamed((const char *)arg[1], (const char *)arg[3], 0);
    case SYS_renameat2: return renamed((const char *)arg[1], (const char *)arg[3], arg[4]);
    case SYS_unlink: return removed(AT_FDCWD, (const char *)arg[0], 0);
    case SYS_unlinkat: return removed(arg[0], (const char *)arg[1], arg[2]);
    default: return -ENOSYS;
    }
}

static void on_sigsys(int signal, siginfo_t *info, void *context) {
    (void)signal;
    greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
    long arg[6] = {regs[REG_RDI], regs[REG_RSI], regs[REG_RDX], regs[REG_R10], regs[REG_R8], regs[REG_R9]};
    regs[REG_RAX] = made(info->si_syscall, arg);
}

static const int TRAPPED[] = {SYS_write, SYS_pwrite64, SYS_writev, SYS_pwritev, SYS_pwritev2, SYS_ftruncate,
                              SYS_fallocate, SYS_fsync, SYS_fdatasync, SYS_open, SYS_openat, SYS_rename,
                              SYS_renameat, SYS_renameat2, SYS_unlink, SYS_unlinkat};
enum { CALLS = sizeof TRAPPED / sizeof *TRAPPED };

static int install(void) {
    uint64_t ours = (uint64_t)(uintptr_t)call6_return;
    struct sock_filter code[8 + CALLS + 2];
    int at = 0;
#define LOAD(field) \
    code[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offsetof(struct seccomp_data, field))
    LOAD(arch);
    code[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, CALLS + 5);
    code[at++] = (struct sock_filter)BPF_STMT(
        BPF_LD | BPF_W | BPF_ABS, (uint32_t)offsetof(struct seccomp_data, instruction_pointer));
    code[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)ours, 0, 2);
    code[at++] = (struct sock_filter)BPF_STMT(
        BPF_LD | BPF_W | BPF_ABS, (uint32_t)offsetof(struct seccomp_data, instruction_pointer) + 4);
    code[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(ours >> 32), CALLS + 1, 0);
    LOAD(nr);
    for (int call = 0; call < CALLS; call++) {
        code[at++] = (struct sock_filter)BPF_JUMP(
            BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)TRAPPED[call], (uint8_t)(CALLS - call), 0);
    }
    code[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    code[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP);
    struct sock_fprog program = {.len = (unsigned short)at, .filter = code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return -1;
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0);
}

static void copy(char *to, const char *from) {
    if (strlen(from) >= PATH_LEN) _exit(99);
    strcpy(to, from);
}

__attribute__((constructor)) static void begin(void) {
    const char *watched = getenv("POWERCUT_DIR"), *log = getenv("POWERCUT_LOG"), *at = getenv("POWERCUT_AT");
    if (!watched || !log) return;
    copy(dir, watched);
    dir_len = strlen(dir);
    copy(boot, getenv("POWERCUT_BOOT") ? getenv("POWERCUT_BOOT") : "");
    copy(saved, log);
    if (strlen(saved) + 16 >= PATH_LEN) _exit(99);
    strcat(saved, ".gone-00000000");
    kill_at = at ? strtoull(at, NULL, 10) : 0;
    ignores_sync = getenv("POWERCUT_IGNORE_SYNC") != NULL;
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    log_fd = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 200);
    struct sigaction action = {.sa_sigaction = on_sigsys, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigfillset(&action.sa_mask);
    if (log_fd < 0 || sigaction(SIGSYS, &action, NULL) != 0 || install() != 0) _exit(99);
    close(fd);
}
