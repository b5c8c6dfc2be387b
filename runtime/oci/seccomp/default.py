# SPDX-License-Identifier: Apache-2.0
"""Our own profile for containers that bring none, with the meaning of Docker's default one.

What a program needs in a namespace of its own is allowed; what reaches the whole machine needs the capability that guards it
in the kernel as well, so that `--cap-add` is enough to get it; old and rare entrances are closed to everybody. The tables are
ours, by purpose, to be read and changed; names that a machine's libseccomp does not know are skipped.
"""

from __future__ import annotations

import errno
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

_FILES = """
    access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fallocate
    fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync flock fstat fstat64 fstatat64 fstatfs
    fstatfs64 fsync ftruncate ftruncate64 futimesat getcwd getdents getdents64 ioctl lchown lchown32 link linkat _llseek
    lseek lstat lstat64 mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat openat2 pread64 preadv preadv2
    pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv rename renameat renameat2 rmdir stat stat64 statfs
    statfs64 statx symlink symlinkat sync sync_file_range syncfs truncate truncate64 umask unlink unlinkat utime utimensat
    utimensat_time64 utimes write writev listmount statmount cachestat fadvise64 fadvise64_64"""
_ATTRIBUTES = """
    fgetxattr flistxattr fremovexattr fsetxattr getxattr getxattrat lgetxattr listxattr listxattrat llistxattr lremovexattr
    lsetxattr removexattr removexattrat setxattr setxattrat"""
_WATCHING = """
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2
    fanotify_mark inotify_add_watch inotify_init inotify_init1 inotify_rm_watch _newselect poll ppoll ppoll_time64 pselect6
    pselect6_time64 select signalfd signalfd4"""
_MEMORY = """
    brk madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap mmap2 mprotect
    mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect process_mrelease remap_file_pages"""
_PIPES_AND_SOCKETS = """
    accept accept4 bind connect getpeername getsockname getsockopt listen pipe pipe2 recv recvfrom recvmmsg
    recvmmsg_time64 recvmsg send sendfile sendfile64 sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair
    splice tee vmsplice"""
_ASYNCHRONOUS = """
    io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit"""  # not io_uring: too many holes
_IPC = """
    ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink
    msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget"""
_PROCESSES = """
    alarm execve execveat exit exit_group fork futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake
    get_robust_list get_thread_area getcpu getitimer getpgid getpgrp getpid getppid getpriority getrlimit getrusage getsid
    gettid ioprio_get ioprio_set kill pause pidfd_open pidfd_send_signal prctl prlimit64 process_vm_readv process_vm_writev
    ptrace restart_syscall rseq sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr
    sched_getparam sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr
    sched_setparam sched_setscheduler sched_yield set_robust_list set_thread_area set_tid_address setitimer setpgid
    setpriority setrlimit setsid sysinfo tgkill times tkill ugetrlimit uname vfork wait4 waitid waitpid riscv_hwprobe"""
_SIGNALS = """
    rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
    rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack sigprocmask sigreturn uretprobe"""
_RIGHTS = """
    capget capset getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getresgid getresgid32 getresuid
    getresuid32 getuid getuid32 landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp setfsgid
    setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setregid setregid32 setresgid setresgid32
    setresuid setresuid32 setreuid setreuid32 setuid setuid32"""
_TIME = """
    adjtimex clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep
    clock_nanosleep_time64 getrandom gettimeofday nanosleep time timer_create timer_delete timer_getoverrun timer_gettime
    timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime
    timerfd_settime64"""
_ALWAYS = (
    _FILES, _ATTRIBUTES, _WATCHING, _MEMORY, _PIPES_AND_SOCKETS, _ASYNCHRONOUS, _IPC, _PROCESSES, _SIGNALS, _RIGHTS, _TIME
)  # fmt: skip

_BY_CAPABILITY = {
    "CAP_BPF": "bpf",
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_PERFMON": "perf_event_open",
    "CAP_SYSLOG": "syslog",
    "CAP_SYS_ADMIN": """bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr
        lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd
        setdomainname sethostname setns syslog umount umount2 unshare""",
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "delete_module finit_module init_module",
    "CAP_SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": "kcmp pidfd_getfd process_madvise",
    "CAP_SYS_RAWIO": "ioperm iopl",
    "CAP_SYS_TIME": "clock_settime clock_settime64 settimeofday stime",
    "CAP_SYS_TTY_CONFIG": "vhangup",
}

# What only these have, and the architectures whose programs run on them too.
_BY_TARGET = {
    "x86_64": ("arch_prctl modify_ldt", ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32")),
    "aarch64": (
        "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2",
        ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
    ),
    "riscv64": ("riscv_flush_icache", ("SCMP_ARCH_RISCV64",)),
}

# Linux; 32 bits on 64; both with 16-bit addresses of old; and the question what it is.
_PERSONALITIES = (0, 8, 0x20000, 0x20008, 0xFFFFFFFF)

# DECnet, Econet, ATM SVC, IrDA, WANPIPE, ISDN, CAIF: nobody's, and full of holes; ALG: the kernel's crypto, likewise; VSOCK: the
# hypervisor, which knows no network namespaces.
_REFUSED_FAMILIES = {12, 19, 20, 23, 25, 34, 37, 38, 40}
_FAMILIES = 46

# CLONE_NEW* but for time: a user namespace makes anybody root of one more kernel interface.
_NEW_NAMESPACES = 0x7E020000


def profile(capabilities: Collection[str], target: str = "") -> dict[str, Any]:
    """Return linux.seccomp for a container whose bounding set is `capabilities` ("CAP_CHOWN"), on this or another machine."""
    target = target or getattr(sys.implementation, "_multiarch", "").partition("-")[0]
    special, architectures = _BY_TARGET.get(target, ("", ()))
    names = {name for group in (*_ALWAYS, special) for name in group.split()}
    for capability in capabilities:
        names.update(_BY_CAPABILITY.get(capability, "").split())
    rules = [_allow(sorted(names))]
    rules += [_allow(["personality"], _argument(0, "EQ", value)) for value in _PERSONALITIES]
    allowed = set(range(_FAMILIES)) - _REFUSED_FAMILIES
    rules += [_allow(["socket"], _argument(0, "EQ", family)) for family in sorted(allowed)]
    if "CAP_SYS_ADMIN" not in capabilities:
        rules.append(_allow(["clone"], _argument(0, "MASKED_EQ", _NEW_NAMESPACES)))
        # Its flags lie in memory, where no filter can look; on ENOSYS a C library uses clone.
        rules.append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS})
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno.EPERM,
        "architectures": list(architectures),
        "syscalls": rules,
    }


def _allow(names: list[str], *arguments: dict[str, Any]) -> dict[str, Any]:
    rule: dict[str, Any] = {"names": names, "action": "SCMP_ACT_ALLOW"}
    return {**rule, "args": list(arguments)} if arguments else rule


def _argument(index: int, operator: str, value: int) -> dict[str, Any]:
    return {"index": index, "value": value, "op": f"SCMP_CMP_{operator}"}
