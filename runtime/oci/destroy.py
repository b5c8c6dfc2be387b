# SPDX-License-Identifier: Apache-2.0
"""The end of a container: its processes, its cgroup, its state directory, and then the poststop hooks."""

from __future__ import annotations

import os

from runtime.oci import jsontext, log
from runtime.oci.cgroups import Group
from runtime.oci.failure import describe
from runtime.oci.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

    from runtime.oci.state import Container

_QUICK_END, _SLOW_END = 500, 10_000  # milliseconds


def destroy(container: Container) -> None:
    """Kill what lives of the container and remove it; nothing if that was done before. The caller holds its lock."""
    if not os.path.isdir(container.directory):
        return
    end(container)
    group = container.group() if container.has_group() else None
    try:
        wanted = container.record.get("pid") and container.record.get("poststop", True)
        config = container.config() if wanted else None
    except Exception as error:  # whatever is wrong with the copy, the container must go
        log.warning(f"no poststop hooks are run: {error}")
        config = None
    remove(container, group, config)


def remove(
    container: Container, group: Group | None, config: dict[str, Any] | None, kept: Collection[str] = ()
) -> None:
    """Remove the cgroup, but those directories of it that shall be `kept`, and the state directory; run the poststop hooks.

    `group` is None if the container has none, or its creation has ended on the way there. The hooks are those of `config`.
    """
    if group is not None:
        group.destroy(kept)
    elif "cgroup" in container.record:
        Group.from_state(container.record["cgroup"]).withdraw(container.record.get("found", ()))
    described = container.describe("stopped", 0)
    container.remove()
    container.release()
    hooks = (config or {}).get("hooks", {}).get("poststop")
    if hooks:
        from runtime.oci import hooks as runner

        for problem in runner.run_all(
            hooks, jsontext.dumps(described), kind="poststop", output=runner.output_of(config or {})
        ):
            log.warning(problem)


def end(container: Container) -> None:
    """Kill the container's first process, and with it its pid namespace, and wait for its end; PermissionError if we may not."""
    pid = container.pid
    if not pid:
        return
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if container.pid == pid:  # else ended, and perhaps another one has its pid
            _kill(pid, pidfd, container.record.get("cgroup", {}).get("mounts", {}).get("v1", {}))
    finally:
        os.close(pidfd)


def end_child(pid: int, hierarchies: dict[str, str]) -> None:
    """Kill and reap a child of ours that was not reaped before.

    `hierarchies` are the mounts of cgroup v1: whoever froze the process, be it in another group, it must thaw to die.
    """
    pidfd = os.pidfd_open(pid)
    try:
        _kill(pid, pidfd, hierarchies)
        os.waitpid(pid, os.WNOHANG)
    finally:
        os.close(pidfd)


def _kill(pid: int, end: int, hierarchies: dict[str, str]) -> None:
    import select

    try:
        signal.pidfd_send_signal(end, signal.SIGKILL)
    except ProcessLookupError:
        return
    poll = select.poll()
    poll.register(end, select.POLLIN)
    if not poll.poll(_QUICK_END) and "freezer" in hierarchies:
        _thaw(pid, hierarchies["freezer"])
    poll.poll(_SLOW_END)


def _thaw(pid: int, mount: str) -> None:
    from runtime.oci.cgroups import paths
    from runtime.oci.cgroups.files import write

    try:
        group = paths.groups_of(pid).get("freezer", "/")
        if group != "/":
            write(mount + group, "freezer.state", "THAWED")
    except OSError as error:
        log.warning(f"process {pid} is frozen and cannot be thawed: {describe(error)}")
