# SPDX-License-Identifier: Apache-2.0
"""The container's own processes, from the fork in the supervisor to the exec of the user's program.

*Stage 1* enters the namespaces, mounts the root and forks *init*, pid 1 of the container, which furnishes the root, starts
the program, forwards signals and reaps. Stage 1 is apart because the mount must be made by a process in the host's pid
namespace: a FUSE server is told the pids of its callers as the namespace of the mounting process numbers them.

Everything here runs with the importer frozen: a lazy import after the pivot would load the container's file with our
privileges (the Python form of CVE-2019-14271). The supervisor hears of progress over `channel`:

    stage 1: "map" (wants its id maps; is answered), "join" (wants its cgroup; is answered), "fuse" + descriptor, "init PID"
    init:    is told "go" once it is known to the supervisor; then "ready", or "error STATUS TEXT"
"""

import errno
import gc
import os
import signal
import socket
import stat
import sys
from typing import NoReturn

from runtime.engine import mounts, namespaces, process
from runtime.engine.cgroup import Layout
from runtime.engine.spec import ContainerSpec, IdMap
from runtime.engine.syscalls import MS_NODEV, MS_NOEXEC, MS_NOSUID, clone_mount, mount, move_mount_fd
from runtime.oci import channel as messages
from runtime.oci import console, privileges, syscalls
from runtime.oci.namespaces import bring_loopback_up
from runtime.oci.process.foreground import collect

SETUP_FAILED = 125

# Any directory that every system has: the root is mounted over it in our own mount namespace, on the way to "/".
_STAGING = "/tmp"
# Signals that init does not hand on: about itself, or (STOP and the terminal's) not to be caught.
_NOT_FORWARDED = {
    signal.SIGCHLD,
    signal.SIGPIPE,
    signal.SIGURG,
    signal.SIGWINCH,
    signal.SIGTTIN,
    signal.SIGTTOU,
}


class _Failure(Exception):
    """A step failed; carries the exit status and the line for the user."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class _Step:
    """Names what is being done, for the error message."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OSError):
            where = error.filename
            if isinstance(where, bytes):
                where = os.fsdecode(where)
            detail = f" ({where})" if where and not str(where).startswith("/proc/self/fd/") else ""
            raise _Failure(SETUP_FAILED, f"{self._text}: {error.strerror}{detail}") from None


def freeze_importer() -> None:
    """Make every further import of a module that is not loaded fail."""
    sys.path.clear()
    sys.meta_path.clear()
    sys.path_hooks.clear()
    sys.path_importer_cache.clear()
    gc.disable()


def stage_one(
    spec: ContainerSpec, layout: Layout, channel: messages.Channel, terminal: messages.Channel | None
) -> NoReturn:
    """Be the first process of a container; called right after the fork, with every signal blocked. Never returns."""
    status = SETUP_FAILED
    try:
        _die_with_parent()
        set_name("unionbox-init")
        freeze_importer()
        keep = {0, 1, 2, channel.fileno()} | ({terminal.fileno()} if terminal is not None else set())
        close_all_but(keep)
        _stage_one(spec, layout, channel, terminal)
        status = 0
    except _Failure as failure:
        messages.send(channel, "error", f"{failure.status} {failure.text}")
        status = failure.status
    except BaseException as error:
        messages.send(channel, "error", f"{SETUP_FAILED} {type(error).__name__}: {error}")
    finally:
        os._exit(status)


def set_name(name: str) -> None:
    """Call this process `name` (15 bytes) in listings."""
    with open("/proc/self/comm", "wb") as stream:
        stream.write(name.encode())


def close_all_but(keep: set[int]) -> None:
    """Close every descriptor outside `keep`."""
    first = 0
    for fd in sorted(keep):
        if fd > first:
            syscalls.close_range(first, fd - 1)
        first = fd + 1
    syscalls.close_range(first)


def _die_with_parent() -> None:
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)


def _stage_one(
    spec: ContainerSpec, layout: Layout, channel: messages.Channel, terminal: messages.Channel | None
) -> None:
    node = -1
    if spec.user_namespace:
        with _Step("cannot make a user namespace"):
            node = _open_fuse_node() if os.geteuid() == 0 and not spec.plain_rootfs else -1
            syscalls.unshare(syscalls.CLONE_NEWUSER)
            _ask(channel, "map")
            _become_root()
    # FUSE wants the device opened in the user namespace that will own the mount; and it is not among a container's devices.
    device = None if spec.plain_rootfs else _open_fuse(f"/proc/self/fd/{node}" if node >= 0 else "/dev/fuse")
    _ask(channel, "join")
    if node >= 0:
        os.close(node)
    with _Step("cannot make the namespaces"):
        syscalls.unshare(namespaces.flags(spec))
        mounts.make_private()
    if device is not None:
        _mount_union(device, channel)
    else:
        _bind_plain(spec.plain_rootfs or "/")
    with _Step("cannot fork; raise --pids"):
        pid = syscalls.fork_sibling()
    if pid:
        messages.send(channel, "init", str(pid))
    else:
        _be_init(spec, layout, channel, terminal)


def _ask(channel: messages.Channel, word: str) -> None:
    messages.send(channel, word)
    if messages.receive(channel)[0] != "ok":
        os._exit(SETUP_FAILED)  # the supervisor has gone, or knows what failed


def _become_root() -> None:
    if process.may_set_groups():
        os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    _die_with_parent()  # a change of ids clears it


def _open_fuse_node() -> int:
    """Return an O_PATH descriptor of a FUSE device that root of a user namespace may open too (often only root may).

    The node lies on a private tmpfs in a mount namespace of our own, so nobody else can reach it.
    """
    syscalls.unshare(syscalls.CLONE_NEWNS)
    mounts.make_private()
    mount("tmpfs", _STAGING, "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=700,size=4k")
    path = os.path.join(_STAGING, "fuse")
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(10, 229))
    os.chmod(path, 0o666)
    return os.open(path, os.O_PATH | os.O_CLOEXEC)


def _open_fuse(path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        hint = "load the fuse module" if error.errno in (errno.ENOENT, errno.ENODEV) else "make it accessible"
        raise _Failure(SETUP_FAILED, f"cannot open /dev/fuse: {error.strerror}; {hint}") from None


def _mount_union(device: int, channel: messages.Channel) -> None:
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
    with _Step("cannot mount the union"):
        mount("unionfs", _STAGING, "fuse.unionfs", MS_NODEV, options)
    messages.send(channel, "fuse", "", [device])
    os.close(device)  # else the connection would outlive its server


def _bind_plain(source: str) -> None:
    with _Step(f"cannot use {source} as root"):
        copy = clone_mount(source)
        target = os.open(_STAGING, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        move_mount_fd(copy, target)
        os.close(copy)
        os.close(target)


def _be_init(
    spec: ContainerSpec, layout: Layout, channel: messages.Channel, terminal: messages.Channel | None
) -> NoReturn:
    """Be pid 1. The caller's handler reports what is raised here."""
    _die_with_parent()
    if messages.receive(channel)[0] != "go":  # the supervisor died before the line above
        os._exit(SETUP_FAILED)
    slave = _furnish(spec, layout, terminal)
    user, env = _prepare_program(spec)
    if spec.filter is not None:
        # For init too; and while we may: without no_new_privs it takes CAP_SYS_ADMIN.
        with _Step("cannot load the filter of system calls"):
            syscalls.seccomp(spec.filter.flags, spec.filter.program)
    with _Step("cannot drop privileges"):
        # Without a devices cgroup a node made in the container would be as good as the host's.
        mask = privileges.capability_mask(without_mknod="devices" not in layout.v1)
        privileges.limit_capabilities(mask)
    child = _start_program(spec, user, env, slave, channel)
    messages.send(channel, "ready")
    close_all_but(set())
    for _ in range(3):
        os.open("/dev/null", os.O_RDWR)
    os._exit(reap(child))


def _furnish(spec: ContainerSpec, layout: Layout, terminal: messages.Channel | None) -> int | None:
    """Make the namespaces fit to live in; return the slave of the container's terminal, if it has one."""
    syscalls.prctl(
        syscalls.PR_SET_DUMPABLE, 0
    )  # hides our memory, descriptors and executable (CVE-2019-5736)
    os.setsid()
    with _Step("cannot make a session keyring"):
        _join_keyring()
    with _Step("cannot set the host name"):
        socket.sethostname(spec.hostname)
    if not spec.host_network:
        with _Step("cannot bring the loopback device up"):
            bring_loopback_up()
    _mount_everything(spec, layout)
    slave = None
    if spec.process.terminal and terminal is not None:
        with _Step("cannot make a terminal"):
            master, slave = console.open_terminal(spec.process.window)
            mounts.bind_console(slave)
            messages.send(terminal, "terminal", "", [master])
            os.close(master)
    for path in (*mounts.masked(), *spec.hidden):
        with _Step(f"cannot hide {path}"):
            mounts.hide(path)
    for path in mounts.READ_ONLY:
        with _Step(f"cannot make {path} read-only"):
            mounts.make_read_only(path)
    return slave


def _join_keyring() -> None:
    try:
        syscalls.join_session_keyring()
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM, errno.EDQUOT):
            raise


def _mount_everything(spec: ContainerSpec, layout: Layout) -> None:
    with _Step("cannot open the root"):
        root = os.open(_STAGING, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    planned = mounts.plan(spec, layout)
    for entry in planned:
        with _Step(f"cannot mount {entry.kind} on {entry.target}"):
            mounts.apply(root, entry)
    if any(mount.target == mounts.CGROUPS and mount.kind == "tmpfs" for mount in planned):
        with _Step(f"cannot make {mounts.CGROUPS} read-only"):
            mounts.seal(root, mounts.CGROUPS)
    with _Step("cannot fill /dev"):
        mounts.fill_dev(root)
    with _Step("cannot enter the root"):
        os.fchdir(root)
        os.close(root)
        mounts.enter_root()


def _prepare_program(spec: ContainerSpec) -> tuple[privileges.User, dict[str, str]]:
    try:
        user = privileges.resolve_user(spec.process.user)
    except KeyError as error:
        raise _Failure(SETUP_FAILED, f"{error.args[0]}; give --user UID:GID") from None
    if not (_has_id(spec.uid_map, user.uid) and _has_id(spec.gid_map, user.gid)):
        hint = (
            "an ordinary user's has root alone, unless newuidmap is installed (package uidmap) and /etc/subuid and /etc/subgid "
            "grant 65536 ids: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 NAME"
            if len(spec.uid_map) == 1 == spec.uid_map[0].size
            else "it ends before that"
        )
        text = f"user {spec.process.user} ({user.uid}:{user.gid}) has no id in the container's user namespace; {hint}"
        raise _Failure(SETUP_FAILED, text)
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not os.path.isdir(spec.process.directory):
            with _Step(f"cannot make the working directory {spec.process.directory}"):
                os.close(mounts.open_directory(root, spec.process.directory))
    finally:
        os.close(root)
    return user, process.environment(spec.process, user, spec.hostname)


def _has_id(maps: tuple[IdMap, ...], number: int) -> bool:
    return not maps or any(entry.inside <= number < entry.inside + entry.size for entry in maps)


def _start_program(
    spec: ContainerSpec,
    user: privileges.User,
    env: dict[str, str],
    slave: int | None,
    channel: messages.Channel,
) -> int:
    """Fork and exec the program; return its pid when the exec has succeeded, raise _Failure when not."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with _Step("cannot fork; raise --pids"):
        child = os.fork()
    if child == 0:
        status, text = SETUP_FAILED, ""
        try:
            process.start(spec.process, user, env, slave)
        except process.ExecError as error:
            status, text = error.status, str(error)
        except OSError as error:
            text = f"cannot start the program: {error.strerror}"
        except BaseException as error:
            text = f"cannot start the program: {type(error).__name__}: {error}"
        finally:
            os.write(writer, f"{status} {text}".encode("utf-8", "surrogateescape"))
            os._exit(status)
    os.close(writer)
    report = b""
    while part := os.read(reader, 4096):
        report += part
    os.close(reader)
    if report:
        number, _, text = report.decode("utf-8", "surrogateescape").partition(" ")
        raise _Failure(int(number), text)
    return child


def reap(main: int) -> int:
    """Be a good pid 1: hand signals on to `main`, reap whoever ends, and return the exit status when `main` has ended.

    All signals are blocked, so that the kernel queues for pid 1 also those it has no handler for.
    """
    everything = signal.valid_signals()
    while True:
        number = signal.sigwait(everything)
        if number == signal.SIGCHLD:
            status = collect(main)
            if status is not None:
                return status
        elif number not in _NOT_FORWARDED:
            try:
                os.kill(main, number)
            except ProcessLookupError:
                pass
