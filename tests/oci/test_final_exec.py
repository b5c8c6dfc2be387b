# SPDX-License-Identifier: Apache-2.0
"""Programs that are there but cannot be executed: who tells, in which words, with which status."""

import os
import stat
from pathlib import Path

import pytest

from tests.support.oci import Bundle, wait_for_end, wait_until


def _program(bundle: Bundle, content: bytes, mode: int = 0o755) -> None:
    path = bundle.rootfs / "program"
    path.write_bytes(content)
    path.chmod(mode)
    bundle.process["args"] = ["/program"]


CASES = {
    "nonsense": (b"\x7fELFnonsense", "exec format error", 126),
    "no interpreter": (b"#!/no/such/interpreter\n", "no such file or directory", 127),
    "interpreter not executable": (b"#!/etc/passwd\n", "permission denied", 126),
    "in a circle": (b"#!/program\n", "too many levels of symbolic links", 126),
}


@pytest.mark.parametrize("case", CASES)
def test_start_tells_why_the_program_cannot_be_executed(bundle: Bundle, case: str) -> None:
    """What only execve finds out is told by `start`; the container has ended then, and can be deleted."""
    content, words, _status = CASES[case]
    _program(bundle, content)
    bundle.create()
    pid = bundle.status()["pid"]
    result = bundle.start(check=False)
    assert result.returncode != 0
    assert words in result.stderr.lower() and "/program" in result.stderr
    wait_for_end(pid)


@pytest.mark.parametrize("case", CASES)
def test_run_tells_why_the_program_cannot_be_executed(bundle: Bundle, case: str) -> None:
    """`run` has the exit status of a shell, and leaves nothing."""
    content, words, status = CASES[case]
    _program(bundle, content)
    result = bundle.run(check=False)
    assert (result.returncode, words in result.stderr.lower()) == (status, True), result.stderr
    assert bundle.leftovers() == []


def test_long_arguments_arrive_unchanged(bundle: Bundle) -> None:
    """Arguments and environment pass the stub as they are, whatever bytes, however many."""
    arguments = [
        "",
        "a b",
        "\u00e9\u4e2d",
        "'\"\\",
        *(f"word{number}" for number in range(2000)),
        "x" * 100_000,
    ]
    bundle.process["env"] = ["PATH=/bin", "EMPTY=", "LONG=" + "y" * 50_000, "STRANGE=\u00fc=\n"]
    bundle.shell('for word; do printf "%s|" "$word"; done; printf "%s" "$EMPTY$LONG$STRANGE"')
    bundle.process["args"] += ["sh", *arguments]
    expected = "".join(word + "|" for word in arguments) + "y" * 50_000 + "\u00fc=\n"
    assert bundle.run().stdout == expected


def test_program_starts_with_clean_signals(bundle: Bundle) -> None:
    """Neither our interpreter's ignored signals nor a blocked one reach the program."""
    bundle.process["args"] = ["grep", "-E", "Sig(Blk|Ign|Cgt)", "/proc/self/status"]
    assert {line.split()[1] for line in bundle.run().lines()} == {"0" * 16}


def test_waiting_container_costs_kilobytes(bundle: Bundle) -> None:
    """A created container holds no interpreter's memory."""
    bundle.create()
    status = Path(f"/proc/{bundle.status()['pid']}/status").read_text()
    (resident,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    assert resident < 200  # kB


def test_waiting_container_keeps_its_descriptors(bundle: Bundle) -> None:
    """Not even the same user may look into what waits for `start`: without capabilities its files are root's."""
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    bundle.create()
    process = Path(f"/proc/{bundle.status()['pid']}")
    wait_until(lambda: "memfd" in os.readlink(process / "exe"), "the stub runs")
    wait_until(lambda: (process / "environ").stat().st_uid == 0, "the stub has closed itself")


def test_waiting_container_can_be_killed(bundle: Bundle) -> None:
    """Before `start` a container ends like any other."""
    bundle.create()
    bundle.kill("KILL")
    bundle.wait_for_status("stopped")
    assert bundle.start(check=False).returncode != 0


def test_start_hooks_run_before_the_program_becomes(bundle: Bundle) -> None:
    """With startContainer hooks an interpreter waits, and what execve says arrives all the same."""
    hook = bundle.rootfs / "hook"
    hook.write_text("#!/bin/sh\necho hook >/ran\n")
    hook.chmod(stat.S_IRWXU)
    bundle.config["hooks"] = {"startContainer": [{"path": "/hook"}]}
    _program(bundle, b"#!/no/such/interpreter\n")
    bundle.create()
    assert not (bundle.rootfs / "ran").exists()
    result = bundle.start(check=False)
    assert result.returncode != 0 and "no such file or directory" in result.stderr.lower()
    assert (bundle.rootfs / "ran").read_text() == "hook\n"


def test_working_program_hides_the_stub(bundle: Bundle) -> None:
    """After the exec nothing of ours is left: the program's own file, name and descriptors."""
    state = bundle.detach(args=["sleep", "1000"])
    process = Path(f"/proc/{state['pid']}")
    wait_until(lambda: os.readlink(process / "exe").endswith("/bin/busybox"), "the program runs")
    assert (process / "comm").read_text() == "sleep\n"
    assert (process / "cmdline").read_bytes() == b"sleep\x001000\x00"
    assert sorted(os.listdir(process / "fd")) == ["0", "1", "2"]


@pytest.mark.parametrize("resource", ["NOFILE", "FSIZE", "AS", "CPU", "CORE", "MEMLOCK", "NPROC", "STACK"])
def test_limits_of_the_program_do_not_hinder_us(bundle: Bundle, resource: str) -> None:
    """The lowest limits with which a program can live are no obstacle on the way to it."""
    lowest = {"NOFILE": 3, "AS": 4 << 20, "CPU": 1, "NPROC": 1, "STACK": 1 << 16}.get(resource, 0)
    bundle.process["rlimits"] = [{"type": f"RLIMIT_{resource}", "soft": lowest, "hard": lowest}]
    bundle.process["args"] = ["cat", "/proc/self/limits"]
    names = {"NOFILE": "Max open files", "FSIZE": "Max file size", "AS": "Max address space"}
    if resource == "NOFILE":
        bundle.process["args"] = ["true"]
    if resource == "FSIZE":  # standard output is a file
        bundle.process["args"] = ["sh", "-c", "test $(ulimit -f) = 0"]
    result = bundle.run(check=False)
    assert (result.returncode, result.stderr) == (0, "")
    for line in result.lines():
        if line.startswith(names.get(resource, "-")):
            assert line.split()[-3] == str(lowest)


def test_failure_of_the_stub_is_told(bundle: Bundle) -> None:
    """When not even the stub can be executed, the caller hears of it and nothing is left."""
    bundle.process["env"] = ["PATH=/bin"] + [f"V{number}=" + "x" * 100_000 for number in range(90)]
    result = bundle.run(args=["true"], check=False)
    assert result.returncode != 0
    assert "argument list too long" in result.stderr.lower()
    assert bundle.leftovers() == []
