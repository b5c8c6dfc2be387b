# SPDX-License-Identifier: Apache-2.0
"""The container's first process, from its birth in the namespaces to the exec of the user's program.

It tells the parent over the channel, and is answered with "ok":

    "hooks"    the root is built: the parent sets limits, moves network devices, runs prestart and createRuntime hooks
    "ready"    all that needs rights is done: the parent sets rlimits and writes down that the container exists
    "seccomp"  with a listener's descriptor (see seccomp/load.py)

"built" takes the place of "hooks" where there is nothing to wait for and is not answered: the limits are set before the answer
to "ready". Nor is "error TEXT". The end of the channel means that the sealed stub waits for `start` in its place (see
sealed_exec.py), "waiting" that this process does, as it has hooks to run before.
"""

from __future__ import annotations

import os

from runtime.oci import channel as messages
from runtime.oci import jsontext, namespaces, syscalls
from runtime.oci.failure import Failure, Step, describe
from runtime.oci.process import become, keyring, launch
from runtime.oci.rootfs import steps
from runtime.oci.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime.oci.job import Job

_LONGEST_REPORT = 4000  # bytes that a fifo takes whole


def run(job: Job) -> None:
    """Furnish the container and become its program; returns only by an exception. Called in the container's cgroup."""
    if job.namespaces.makes("cgroup"):
        with Step("make the cgroup namespace"):
            syscalls.unshare(syscalls.CLONE_NEWCGROUP)  # its root is the group we are in
    steps.build(job.config, job.root)
    if job.must_pause():
        messages.ask(job.channel, "hooks")
        _run_hooks(job, "createContainer", "creating")
    else:
        messages.send(job.channel, "built")
    steps.enter(job.config, job.root, no_pivot=not job.request.pivot)
    if job.account is not None:
        job.account.find(job.process)  # in the container's own files
    become.make_directory(job.process)
    if job.process.terminal:
        from runtime.oci.process import terminal

        terminal.attach(job.console, job.process.window, job.process.user.uid, console_device=True)
    steps.finish(job.config, job.root)
    messages.send(job.channel, "ready")
    _become_program(job)


def settle(job: Job) -> None:
    """Take possession of the other namespaces; called before `run`, as soon as there are any."""
    os.setsid()
    if job.request.new_keyring:
        keyring.join(job.request.id)
    if job.namespaces.makes("network"):
        with Step("bring the loopback device up"):
            namespaces.bring_loopback_up()
    if name := job.config.get("hostname"):
        with Step(f"set the hostname {name!r}"):
            syscalls.sethostname(os.fsencode(name))
    if name := job.config.get("domainname"):
        with Step(f"set the domainname {name!r}"):
            syscalls.setdomainname(os.fsencode(name))


def _become_program(job: Job) -> None:
    # The stub loads the filter last of all; but startContainer hooks are the container's programs and run with it.
    can_wait = job.process.no_new_privileges and not job.hooks("startContainer")
    late = job.filter if can_wait and job.filter and not job.filter.listener else None
    become.become(job.process, _loader(job) if late is None else None, lambda: messages.wait(job.channel))
    _settle_end(job)
    init = job.request.init
    if not job.hooks("startContainer"):
        channel = job.channel.fileno()  # close-on-exec, but until then errors go there
        launch.execute(job.process, report=job.report, gate=job.gate, seccomp=late, keep=channel, init=init)
    messages.send(job.channel, "waiting")
    job.channel.close()
    launch.close_all_but({0, 1, 2, job.gate, job.report} | job.process.kept)
    if not os.read(job.gate, 1):
        os._exit(1)
    try:
        _run_hooks(job, "startContainer", "starting", job.process.environment)
        launch.execute(job.process, report=job.report, seccomp=late, init=init)
    except BaseException as error:  # `start` takes silence for success
        reason = describe(error) if isinstance(error, OSError) else str(error)
        text = error.line() if isinstance(error, Failure) else f"start the container: {reason}"
        os.write(job.report, b"E" + text.encode("utf-8", "surrogateescape")[:_LONGEST_REPORT])
    os._exit(1)


def _settle_end(job: Job) -> None:
    """Outlive `create`, as the container is known from now on; or be tied to who made it, again, as a change of ids ends that."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL if job.request.tied else 0)
    if job.request.tied and messages.has_ended(job.channel):
        os._exit(1)  # he died before the line above


def _loader(job: Job) -> Callable[[], None] | None:
    found = job.filter
    if found is None:
        return None
    from runtime.oci import seccomp

    return lambda: seccomp.load(found, job.channel)


def _run_hooks(job: Job, kind: str, status: str, environment: dict[bytes, bytes] | None = None) -> None:
    if not job.hooks(kind):
        return
    from runtime.oci import hooks

    state = jsontext.dumps(job.container.describe(status, os.getpid()))
    hooks.run(job.hooks(kind), state, kind=kind, environment=environment, inside=kind == "startContainer")
