# SPDX-License-Identifier: Apache-2.0
"""Starting a created container: open its gate, and learn whether its program runs."""

from __future__ import annotations

import errno
import os

from runtime.oci import jsontext, sealed_exec, state
from runtime.oci.failure import Failure, Step, describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.oci.process.notify import Readiness
    from runtime.oci.state import Container

_LONGEST_REPORT = 65536


def start(container: Container, *, stays: bool = False) -> Readiness | None:
    """Let the program run and run the poststart hooks; a Failure tells why it does not. The caller holds the lock.

    A poststart hook that fails ends the container, as the specification wants it. Returns what is to be heard, without the
    lock, if a service manager waits for the container's readiness; `stays` tells that the caller is the one to be watched.
    """
    readiness = _listen(container, 0 if stays else container.record["pid"])
    problem = _open_gate(container)
    if problem:
        raise problem
    if container.record.get("poststart"):
        from runtime.oci import destroy
        from runtime.oci import hooks as runner

        config = container.config()
        text = jsontext.dumps(
            container.describe("running", container.record["pid"])
        )  # it may have ended already
        try:
            output = runner.output_of(config)
            runner.run(config["hooks"]["poststart"], text, kind="poststart", output=output)
        except Failure:
            destroy.destroy(container)
            raise
    return readiness


def _listen(container: Container, main_pid: int) -> Readiness | None:
    if not container.record.get("notify"):
        return None
    from runtime.oci.process import notify

    return notify.listen(container.directory, main_pid)


def _open_gate(container: Container) -> Failure | None:
    with Step("start the container"):
        report = os.open(container.path(state.REPORT), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.set_blocking(report, True)
            try:
                gate = os.open(container.path(state.GATE), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return _ended(container)
                raise
            os.write(gate, b"s")
            os.close(gate)
            data = _read_all(report)
        finally:
            os.close(report)
        os.unlink(container.path(state.GATE))
    return _problem(container, data)


def _ended(container: Container) -> Failure:
    kills = container.group().oom_kills() if container.has_group() else 0
    reason = ": the memory limit is too low" if kills else ""
    return Failure(f"container {container.id} has ended before it was started{reason}")


def _read_all(fd: int) -> bytes:
    data = b""
    while len(data) < _LONGEST_REPORT and (part := os.read(fd, _LONGEST_REPORT)):
        data += part
    return data


def _problem(container: Container, data: bytes) -> Failure | None:
    """Return what the container's side said it failed with."""
    if data[:1] == b"E":
        return Failure(data[1:].decode("utf-8", "replace"))
    name = container.record.get("program", "")
    error = sealed_exec.reported(data, name)
    if error is None:
        return None
    status = 127 if error.errno == errno.ENOENT else 126
    return Failure(f"exec {describe(error)}", status=status, program=status)
