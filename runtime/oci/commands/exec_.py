# SPDX-License-Identifier: Apache-2.0
"""`unionrt exec`: run another program in a running container."""

from __future__ import annotations

import os

from runtime.oci import channel as messages
from runtime.oci import config as configuration
from runtime.oci import exec_child, jsontext, log, module_cache, namespaces, schema, sealed_exec, state
from runtime.oci.failure import Failure, Step, describe
from runtime.oci.options import Command, Option, Options
from runtime.oci.process import foreground, launch, prepared, user
from runtime.oci.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.oci.settings import Settings

COMMAND = Command(
    "exec",
    "run another program in a running container",
    "CONTAINER cmd [ARGUMENT...]",
    (
        Option("process", "p", "FILE", "take everything about the process from this file"),
        Option("tty", "t", "", "give it a terminal"),
        Option("console-socket", "", "PATH", "hand the terminal over through this socket"),
        Option("pidfd-socket", "", "PATH", "hand a descriptor of the process over through this socket"),
        Option("detach", "d", "", "do not wait for it"),
        Option("pid-file", "", "FILE", "write its pid to this file"),
        Option("cwd", "", "DIR", "its working directory"),
        Option("env", "e", "NAME=VALUE", "add a variable to its environment"),
        Option("user", "u", "UID[:GID]", "numbers of its user and group"),
        Option("additional-gids", "g", "GID", "numbers of more groups"),
        Option("cap", "c", "CAP", "add a capability"),
        Option("no-new-privs", "", "", "let it gain no privileges"),
        Option("apparmor", "", "PROFILE", "its AppArmor profile"),
        Option("process-label", "", "LABEL", "its SELinux label"),
        Option(
            "ignore-paused", "", "", "do not refuse if the container is paused: it runs when that goes on"
        ),
        Option("cgroup", "", "[CONTROLLER:]PATH", "put it in this group below the container's"),
        Option("preserve-fds", "", "N", "pass on N descriptors after the standard ones"),
        Option("no-subreaper", "", "", "accepted, without a meaning here"),
    ),
    least=1,
    most=-1,
    foreign=True,
)

_FAILED = 255
_CACHE = ".cache"


def run(settings: Settings, options: Options) -> int:
    """Return the program's exit status, 255 if it could not be run."""
    try:
        return _run(settings, options)
    except Failure as failure:
        failure.status = _FAILED
        raise
    except OSError as error:
        raise Failure(f"exec failed: {describe(error)}", status=_FAILED) from error


def _run(settings: Settings, options: Options) -> int:
    container = state.open_container(settings.root, options.arguments[0])
    _check_status(container, ignore_paused=options.flag("ignore-paused"))
    config = container.config()
    process = _process(options, config)
    terminal = process.get("terminal", False)
    _check_console(options, terminal)
    job = _prepare(settings, options, container, config, process)
    for text in job.process.warnings:
        log.warning(text)
    master_socket = -1
    if terminal:
        from runtime.oci import console
        from runtime.oci.process import terminal as terminals

        job.attach = terminals.attach
        if options.text("console-socket"):
            job.console = terminals.connect(options.text("console-socket"))
        else:
            master_socket, job.console = terminals.pair()
            job.process.window = job.process.window or console.own_window()
    kinds = ", ".join(name.partition(" ")[0] for _, _, name in job.namespaces.joined)
    log.debug(f"exec {process['args'][0]!r} in container {container.id}: joining {kinds or 'no'} namespaces")
    pid = _start(job, container, options)
    log.debug(f"process {pid} runs")
    if options.flag("detach"):
        return 0
    master = None
    if master_socket >= 0:
        from runtime.oci.process import terminal as terminals

        master = terminals.receive(master_socket)
        os.close(master_socket)
    return foreground.wait(pid, master)


def _check_status(container: state.Container, *, ignore_paused: bool) -> None:
    status = container.status()
    if status == "paused" and not ignore_paused:
        raise Failure("cannot exec in a paused container", "resume it, or use --ignore-paused")
    if status in ("stopped", "creating"):
        raise Failure(f"cannot exec in a container that is {status}")


def _check_console(options: Options, terminal: bool) -> None:
    given = bool(options.text("console-socket"))
    if given and not terminal:
        raise Failure("--console-socket: the process has no terminal", "give --tty, or leave it out")
    if terminal and options.flag("detach") and not given:
        raise Failure("a detached process with a terminal needs --console-socket")


def _process(options: Options, config: dict[str, Any]) -> dict[str, Any]:
    """Return the process asked for: the file's, or the container's first one with what the options change."""
    path = options.text("process")
    process = _read_process(path) if path else _changed(options, config["process"])
    if not process.get("args"):
        raise Failure("exec: there is no command", "give one after the container, or --process")
    process.setdefault("user", {})
    process.setdefault("cwd", "/")
    if "oomScoreAdj" not in process and "oomScoreAdj" in config["process"]:
        process["oomScoreAdj"] = config["process"]["oomScoreAdj"]
    return process


def _read_process(path: str) -> dict[str, Any]:
    with Step("read the process"), open(path, encoding="utf-8", errors="surrogateescape") as stream:
        text = stream.read()
    try:
        process = jsontext.loads(text)
    except ValueError as error:
        raise Failure(f"read the process: {path}: {error}") from None
    with configuration.naming(path):
        configuration.conform(process, schema.PROCESS, "process")
    result: dict[str, Any] = process
    return result


def _changed(options: Options, first: dict[str, Any]) -> dict[str, Any]:
    process = dict(first)
    process["args"] = options.arguments[1:]
    process["terminal"] = options.flag("tty")
    process["env"] = [*first.get("env", ()), *options.all("env")]
    process["user"] = dict(first.get("user") or {})
    if "user" in options.given:
        process["user"].update(user.parse(options.text("user")))
    if options.all("additional-gids"):
        more = [user.number(text, "additional-gids") for text in _words(options.all("additional-gids"))]
        process["user"]["additionalGids"] = [*process["user"].get("additionalGids", ()), *more]
    for option, key in (("cwd", "cwd"), ("apparmor", "apparmorProfile"), ("process-label", "selinuxLabel")):
        if options.text(option):
            process[key] = options.text(option)
    if options.flag("no-new-privs"):
        process["noNewPrivileges"] = True
    if options.all("cap"):
        process["capabilities"] = _with_capabilities(process.get("capabilities") or {}, options.all("cap"))
    return process


def _words(values: list[str]) -> list[str]:
    return [word for value in values for word in value.split(",")]


def _with_capabilities(sets: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Add to three sets: an inheritable capability would pass through programs that were never given it (CVE-2022-29162)."""
    return {
        **sets,
        **{kind: [*sets.get(kind, ()), *names] for kind in ("bounding", "effective", "permitted")},
    }


def _prepare(
    settings: Settings,
    options: Options,
    container: state.Container,
    config: dict[str, Any],
    process: dict[str, Any],
) -> exec_child.Job:
    linux = config.get("linux") or {}
    pid = container.pid
    joined, root = _open_namespaces(container, pid)
    in_user_namespace = any(flag == namespaces.KINDS["user"] for flag, _, _ in joined.joined)
    preserve, listen = options.count("preserve-fds"), prepared.announced_descriptors()
    made = prepared.prepare(
        process, linux, preserve_fds=preserve, listen_fds=listen, user_namespace=in_user_namespace
    )
    group = container.group()
    for path in options.all("cgroup"):
        group = group.below(path)
    # Named by the user, the group must be that one; else any of the container's will do.
    beside = 0 if options.all("cgroup") else pid
    job = exec_child.Job(made, joined, group, beside)
    job.root = root
    if container.record.get("keyring", True):
        job.keyring = container.id
    if configuration.has_filter(config):
        module_cache.load("runtime.oci.seccomp")
        from runtime.oci import seccomp

        job.filter = seccomp.prepare(config, os.path.join(settings.root, _CACHE), log.debug)
        job.load = seccomp.load
    return job


def _open_namespaces(container: state.Container, pid: int) -> tuple[namespaces.Namespaces, int]:
    """Open the namespaces of the container's first process that are not ours already, and its root if it has our mounts.

    Through one descriptor of its directory in /proc: that cannot come to mean another process of the same pid.
    """
    joined = []
    root = -1  # a mount namespace has its own
    with Step(f"open the namespaces of container {container.id}"):
        process = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        directory = os.open("ns", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=process)
        for kind, flag in namespaces.KINDS.items():
            name = {"mount": "mnt", "network": "net"}.get(kind, kind)
            try:
                fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
            except FileNotFoundError:  # a kernel without this kind
                continue
            theirs, ours = os.fstat(fd), os.stat(f"/proc/self/ns/{name}")
            if (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino):
                os.close(fd)
            else:
                joined.append((flag, fd, f"{kind} of {container.id}"))
        if all(flag != namespaces.KINDS["mount"] for flag, _, _ in joined):
            root = os.open("root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=process)
        os.close(directory)
        os.close(process)
    if container.pid != pid:
        raise Failure(f"container {container.id} has just ended")
    return namespaces.Namespaces(0, joined), root


def _start(job: exec_child.Job, container: state.Container, options: Options) -> int:
    """Start the process and return its pid when its program runs."""
    channel, theirs = messages.pair()
    reader, writer = os.pipe2(os.O_CLOEXEC)
    if not options.flag("detach"):  # else they are for us, and their default action takes the process with us
        foreground.block()
    stage = exec_child.fork(job, theirs, writer)
    theirs.close()
    os.close(writer)
    namespaces.close(job.namespaces)
    for fd in (job.console, job.root):
        if fd >= 0:
            os.close(fd)
    pid = 0
    try:
        pid = _hear_pid(stage, channel, job)
        os.waitpid(stage, 0)
        stage = 0
        prepared.limit(pid, job.process)
        _tell_pid(pid, options)
        messages.send(channel, "go")
        _hear_end(channel, job, container, pid)
        name = job.process.arguments[0]
        failed = sealed_exec.reported(os.read(reader, 64), os.fsdecode(name))
        if failed is not None:
            raise launch.explain(name, failed)
    except BaseException:
        for child in filter(None, (stage, pid)):
            _end(child)
        raise
    finally:
        os.close(reader)
        channel.close()
    return pid


def _hear_pid(stage: int, channel: messages.Channel, job: exec_child.Job) -> int:
    word, text, _ = messages.receive_from(stage, channel)
    if word != "pid":
        raise Failure(f"exec failed: {text}") if text else _death(job)
    return int(text)


def _death(job: exec_child.Job) -> Failure:
    """Return what to say of a process that somebody has killed, perhaps the memory limit."""
    kills = job.group.oom_kills()
    hint = f"the container's memory limit has killed processes ({kills} so far)" if kills else ""
    return Failure("exec failed: the process died before its program ran", hint)


def _hear_end(channel: messages.Channel, job: exec_child.Job, container: state.Container, pid: int) -> None:
    """Serve the child until its channel closes, which is at its exec; raises its failure."""
    ready = False
    helper: list[int] = []  # the pidfd of the process that sends the seccomp listener
    while True:
        word, text, descriptors = (
            messages.receive_before(helper[0], channel) if helper else messages.receive(channel)
        )
        if word == "error":
            raise Failure(f"exec failed: {text}")
        if word == "seccomp" and job.filter is not None:
            from runtime.oci.seccomp import notify

            with Step("hand the seccomp listener over"):
                notify.send(job.filter, container.describe(), pid, descriptors[0])
            os.close(descriptors[0])
            messages.send(channel, "ok")
        if word in ("helper", "seccomp"):
            for pidfd in helper:
                os.close(pidfd)
            helper = descriptors if word == "helper" else []
        ready = ready or word == "ready"
        if not word:
            if not ready:
                raise _death(job)
            return


def _tell_pid(pid: int, options: Options) -> None:
    """Write the pid file and send the pidfd, before the program can end."""
    if options.text("pid-file"):
        with Step("write the pid file"):
            state.write_file(options.text("pid-file"), str(pid))
    if options.text("pidfd-socket"):
        from runtime.oci.process import terminal

        terminal.send_pidfd(options.text("pidfd-socket"), pid)


def _end(child: int) -> None:
    try:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    except (ProcessLookupError, ChildProcessError):
        pass
