# SPDX-License-Identifier: Apache-2.0
"""The parent's side of a container's creation, on the host and with the caller's rights.

Prepares all that can be, forks, and serves what the container's processes ask for. A creation that fails leaves nothing
behind; a killed one leaves a state directory whose record names the cgroup, for `delete --force`: its processes die with us.
"""

from __future__ import annotations

import os

from runtime.oci import channel as messages
from runtime.oci import config as configuration
from runtime.oci import jsontext, log, module_cache, namespaces, process, rootfs, stage, state
from runtime.oci.cgroups import open_group
from runtime.oci.failure import Failure, Step, describe
from runtime.oci.job import Job
from runtime.oci.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from runtime.oci.cgroups import Group
    from runtime.oci.job import Request
    from runtime.oci.settings import Settings
    from runtime.oci.state import Container

_STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_KEEP_GROUPS = (
    "run.oci.keep_original_groups"  # set by engines for files that only a group of the caller may read
)
_USER = "unionrt.user"  # USER[:GROUP], names or numbers, instead of the ids of process.user
_CACHE = ".cache"  # in the state root
_DIED = "the container's first process died"


def create(settings: Settings, request: Request, meanwhile: Callable[[], None] = lambda: None) -> Container:
    """Make a container, which then waits for `start`; returns with its lock held.

    `meanwhile` is called while the container's first process is at work on another CPU.
    """
    config = configuration.load(request.config, lambda terminal: _check_terminal(request, terminal))
    stop = _Stop()
    for number in _STOP:
        signal.signal(number, stop.hear)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
    container = state.reserve(settings.root, request.id)
    creation = _Creation(settings, request, container, config)
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        creation.prepare()
        creation.fork()
        module_cache.load("runtime.oci.cgroups.limits")
        meanwhile()
        creation.serve()
        creation.publish()
    except BaseException:
        # Told twice, we must undo it all the same. This comes first, for within any call a handler may run.
        stop.heard = True
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
        creation.undo()
        raise
    return container


class _Stop:
    """Gives up at the first signal, and hears no further one."""

    __slots__ = ("heard",)

    def __init__(self) -> None:
        self.heard = False

    def hear(self, number: int, _frame: FrameType | None) -> None:
        if not self.heard:
            self.heard = True
            raise Failure(f"interrupted by signal {number}", status=128 + number)


def _check_terminal(request: Request, terminal: bool) -> None:
    if request.console_socket and not terminal:
        raise Failure(
            "--console-socket is given, but process.terminal is not true", "set it, or leave the option out"
        )
    if terminal and request.detach and not request.console_socket:
        raise Failure(
            "process.terminal is true, but nobody takes the terminal",
            "use --console-socket, or set it to false",
        )


class _Creation:
    """One container on its way."""

    def __init__(
        self, settings: Settings, request: Request, container: Container, config: configuration.Config
    ) -> None:
        self._settings = settings
        self._request = request
        self._container = container
        self._job = Job(request, container, config)
        self._job.control, self._job.channel = messages.pair()
        self._channel = self._job.control
        self._first = 0  # the pid of what we forked
        self._init = 0  # the pid of the container's first process
        self._group: Group | None = None
        self._complete = False  # whether all cgroups are there, and the first process
        self._terminal = -1  # where the terminal comes from, if we keep it
        self._helper: list[int] = []  # the pidfd of the process that sends the seccomp listener

    def prepare(self) -> None:
        """Check and open everything that can be without touching more than the state directory and the cgroup."""
        job, config, linux = self._job, self._job.config, self._job.config["linux"]
        if os.environ.get("NOTIFY_SOCKET"):
            from runtime.oci.process import notify

            notify.offer(config, self._container.directory)
        if config.get("hooks"):
            from runtime.oci import hooks

            hooks.check(config["hooks"])
        job.namespaces = namespaces.prepare(linux)
        if job.namespaces.makes("user"):
            from runtime.oci import mappings

            mappings.complete(linux)
        job.process = process.prepare(
            config["process"],
            linux,
            preserve_fds=self._request.preserve_fds,
            listen_fds=process.announced_descriptors(),
            user_namespace=job.namespaces.has("user"),
        )
        if config.get("annotations", {}).get(_KEEP_GROUPS) in ("1", "true"):
            job.process.user.groups = None
        if (name := config.get("annotations", {}).get(_USER)) is not None:
            from runtime.oci.process import accounts

            job.account = accounts.named(name, linux, own_users=job.namespaces.makes("user"))
        job.root = rootfs.prepare(
            config, self._request.bundle, identity=self._request.id, rootless=self._settings.rootless
        )
        if configuration.has_filter(config):
            module_cache.load("runtime.oci.seccomp")
            from runtime.oci import seccomp

            job.filter = seccomp.prepare(config, os.path.join(self._settings.root, _CACHE), log.debug)
        self._connect_terminal()
        job.group = open_group(
            config, self._request.id, manager=self._settings.manager, rootless=self._settings.rootless
        )
        self._record()
        self._group = job.group
        job.group.begin()

    def _connect_terminal(self) -> None:
        if not self._job.process.terminal:
            return
        from runtime.oci import console
        from runtime.oci.process import terminal

        if self._request.console_socket:
            self._job.console = terminal.connect(self._request.console_socket)
        else:
            self._terminal, self._job.console = terminal.pair()
            self._job.process.window = self._job.process.window or console.own_window()

    def _warn(self) -> None:
        for warnings in (self._job.process.warnings, self._job.group.warnings):
            for text in warnings:
                log.warning(text)
            warnings.clear()

    def _record(self) -> None:
        """Write down what a later command must know to clear up, should we be killed."""
        container, job = self._container, self._job
        container.record = {
            "ociVersion": job.config["ociVersion"],
            "id": container.id,
            "pid": 0,
            "start": 0,
            "bundle": self._request.bundle,
            "rootfs": job.root.root,
            "created": _now(),
            "owner": _owner(),
            "annotations": job.config.get("annotations", {}),
            "rootless": self._settings.rootless,
            "manager": self._settings.manager,
            "program": job.config["process"]["args"][0],
            "notify": bool(os.environ.get("NOTIFY_SOCKET")),
            "keyring": self._request.new_keyring,
            "poststart": bool(job.hooks("poststart")),
            "poststop": bool(job.hooks("poststop")),
            "cgroup": job.group.to_state(),
            "found": job.group.present(),
        }
        with Step("write the state"):
            container.save()

    def fork(self) -> None:
        """Fork the first process and keep only our own descriptors."""
        job = self._job
        self._first = stage.spawn(job)
        if job.namespaces.simple():
            self._init = self._first
        job.channel.close()
        job.root.close()
        namespaces.close(job.namespaces)
        if job.console >= 0:
            os.close(job.console)
        job.group.complete()
        self._complete = True  # not before: a group that was refused is somebody else's
        with Step("write the state"):
            # They also say that the cgroups of the record are the container's (see state.py).
            os.mkfifo(self._container.path(state.GATE), 0o600)
            os.mkfifo(self._container.path(state.REPORT), 0o600)
            messages.send(self._channel, "ok")
            state.write_file(self._container.path(state.CONFIG), jsontext.dumps(job.config))
        self._warn()

    def serve(self) -> None:
        """Do what stage and init ask for, until init or the stub in its place waits for `start`."""
        while True:
            word, text, descriptors = self._hear()
            if word == "error":
                status, _, reason = text.partition(" ")
                raise self._explain(reason, int(status))
            if word in ("", "waiting"):
                if not self._recorded():
                    raise self._explain(_DIED)
                self._limit_memory()
                return
            if word == "warning":
                log.warning(text)
                continue
            if word == "built":
                self._configure()
                continue
            if word == "helper":
                self._watch(descriptors)
                continue
            self._answer(word, text, descriptors)
            messages.send(self._channel, "ok")

    def _hear(self) -> tuple[str, str, list[int]]:
        if self._helper:
            heard = messages.receive_before(self._helper[0], self._channel)
            if not heard[0]:
                raise self._explain("the process died that sends the listener of the seccomp filter")
            return heard
        if self._init:
            return messages.receive(self._channel)
        return messages.receive_from(self._first, self._channel)

    def _watch(self, helper: list[int]) -> None:
        for pidfd in self._helper:
            os.close(pidfd)
        self._helper = helper

    def _answer(self, word: str, text: str, descriptors: list[int]) -> None:
        job = self._job
        if word == "map":
            from runtime.oci import mappings

            mappings.write(self._first, job.config["linux"])
        elif word == "offsets":
            self._set_clocks()
        elif word == "init":
            os.waitpid(self._first, 0)
            self._first = self._init = int(text)  # what was stage's pid may be anybody's from now on
        elif word == "hooks":
            self._configure()
        elif word == "ready":
            process.limit(self._init, job.process)
            self._container.record["pid"] = self._init
            # An ordinary user may not have been able to make all of it.
            self._container.record["cgroup"] = job.group.to_state()
            self._container.record["start"] = state.start_time(self._init)
            with Step("write the state"):
                self._container.save()
        elif word == "seccomp":
            self._watch([])
            self._hand_over(descriptors[0])

    def _set_clocks(self) -> None:
        offsets = self._job.config["linux"]["timeOffsets"]
        lines = (
            f"{name} {entry.get('secs', 0)} {entry.get('nanosecs', 0)}\n" for name, entry in offsets.items()
        )
        with Step("set linux.timeOffsets"):
            fd = os.open(f"/proc/{self._first}/timens_offsets", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, "".join(lines).encode())
            finally:
                os.close(fd)

    def _configure(self) -> None:
        job, linux = self._job, self._job.config["linux"]
        job.group.apply({key: value for key, value in linux.get("resources", {}).items() if key != "memory"})
        self._warn()
        if linux.get("netDevices"):
            from runtime.oci import netdevices

            netdevices.move(linux["netDevices"], self._init)
        for kind in ("prestart", "createRuntime"):
            if job.hooks(kind):
                from runtime.oci import hooks

                # prestart is older than the status "creating", and was promised "created".
                status = "created" if kind == "prestart" else "creating"
                text = jsontext.dumps(self._container.describe(status, self._init))
                hooks.run(job.hooks(kind), text, kind=kind, output=hooks.output_of(job.config))

    def _limit_memory(self) -> None:
        """Set the limits on memory now that the interpreter has gone from the container: they are to suit the program."""
        if memory := self._job.config["linux"].get("resources", {}).get("memory"):
            self._job.group.limit({"memory": memory})
            self._warn()

    def _hand_over(self, listener: int) -> None:
        from runtime.oci.seccomp import notify

        found = self._job.filter
        if found is not None:
            description = self._container.describe("creating", self._init)
            with Step("hand the seccomp listener over"):
                notify.send(found, description, self._init, listener)
        os.close(listener)

    def _recorded(self) -> bool:
        """Tell whether init lives and the record says so."""
        return bool(self._init) and self._container.pid == self._init

    def _explain(self, text: str, program: int = 0) -> Failure:
        """Return the failure that `text` from the child tells, with the memory limit as its reason if that killed it.

        `program` is what a shell's status would be, if it is one of the program.
        """
        kills = self._job.group.oom_kills()
        if kills:
            return Failure(f"{text}: the memory limit is too low", "raise linux.resources.memory.limit")
        return Failure(text, program=program)

    def publish(self) -> None:
        """Tell the caller about the container, in the ways he asked for."""
        if self._terminal >= 0:
            from runtime.oci.process import terminal

            self._request.terminal = terminal.receive(self._terminal)
            os.close(self._terminal)
        if self._request.pidfd_socket:
            from runtime.oci.process import terminal

            terminal.send_pidfd(self._request.pidfd_socket, self._init)
        if self._request.pid_file:
            with Step("write the pid file"):
                state.write_file(self._request.pid_file, str(self._init))
        self._channel.close()

    def undo(self) -> None:
        """Remove everything that was made, be it a group above the container's, and nothing else; run the poststop hooks."""
        from runtime.oci import destroy

        self._channel.close()  # ends a first process too whose pid we were not told
        if hasattr(self._job, "root"):
            self._job.root.close()  # the server of a union hears of its end
        for pid in {self._first, self._init} - {0}:
            destroy.end_child(pid, self._job.group.layout.v1)
        try:
            if self._group is not None and not self._complete:
                self._group.unmake()
                self._group = None
            config = self._job.config if self._complete else None
            destroy.remove(self._container, self._group, config, self._container.record.get("found", ()))
            if self._group is not None:
                self._group.unmake()
        except (OSError, Failure) as error:
            reason = describe(error) if isinstance(error, OSError) else error.line()
            log.warning(f"could not remove all of {self._container.id}: {reason}")


def _now() -> str:
    import time

    now = time.time_ns()
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now // 10**9))}.{now % 10**9:09d}Z"


def _owner() -> str:
    uid = os.geteuid()
    if uid == 0:
        return "root"
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
