# SPDX-License-Identifier: Apache-2.0
"""Mount unions through the real program, in a process of their own, and check what they leave behind."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.support import syscalls, tree
from tests.support.tree import Tree

DEADLINE = 120.0  # a condition that holds is seen at once; this is for a machine under load 30
# libfuse prints these when the connection ends before the answer to a last RELEASE is read, or while the request itself is;
# nobody waits for that.
HARMLESS_LOG = (
    r"fuse_release(dir)?\(\): fuse_reply_\* failed with No such file or directory"
    r"|fuse: reading device: Software caused connection abort"
)
SESSIONS = os.environ.get("UNIONFS_TEST_SESSIONS", "pyfuse3 direct").split()


def program(name: str = "unionfs", module: str = "unionfs.cli.main") -> list[str]:
    """Return how to start one of our programs: the installed script, else its module."""
    script = Path(sys.executable).with_name(name)
    if script.exists():
        return [str(script)]
    return [sys.executable, "-c", f"import sys; from {module} import main; sys.exit(main())"]


def unionfs(
    *arguments: str | Path, check: bool = True, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run the `unionfs` program; with `check` a failure fails the test with what it printed."""
    argv = [*program(), *map(str, arguments)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)
    if check and done.returncode:
        raise AssertionError(
            f"{' '.join(map(str, arguments))}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        )
    return done


def few_descriptors(limit: int) -> list[str]:
    """Return the words before a server's command that let it open so many files; root's could take itself more."""
    bound = ["prlimit", f"--nofile={limit}:{limit}"]
    return bound if os.geteuid() else ["setpriv", "--bounding-set=-sys_resource", "--", *bound]


def eventually(condition: Callable[[], object], what: str = "", *, deadline: float = DEADLINE) -> None:
    """Wait until `condition()` holds; fail after `deadline` seconds."""
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"did not happen in {deadline} s: {what or condition}")
        time.sleep(0.01)


def is_mounted(path: Path) -> bool:
    """Tell whether something is mounted exactly there, without touching it."""
    table = Path("/proc/thread-self/mountinfo").read_text()
    return any(line.split()[4] == str(path) for line in table.splitlines())


class Process(Protocol):
    """What is needed of a server's process: subprocess.Popen, or the like."""

    pid: int
    returncode: int | Any

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, number: int, /) -> None: ...
    def kill(self) -> None: ...


class Union:
    """A mounted union: its mount point, its branches and its server process."""

    def __init__(
        self, mountpoint: Path, branches: dict[str, Path], options: str, log: Path, session: str
    ) -> None:
        self.session = session
        self.mnt = mountpoint
        self.branches = branches
        self.options = options
        self.log = log
        self.dropped: list[str] = []  # capabilities that the server is started without
        self.launcher: list[str] = []  # words before its command
        self.allowed_log: list[str] = []  # more patterns of lines that the test expects
        self.process: Process | None = None

    def __truediv__(self, name: str) -> Path:
        return self.mnt / name

    @property
    def pid(self) -> int:
        """Return the server's process id."""
        assert self.process is not None
        return self.process.pid

    def branch(self, number: int) -> Path:
        """Return the directory of branch B<number>."""
        return self.branches[f"B{number}"]

    def start(self) -> None:
        """Start the server and wait until the mount answers."""
        argv = [*program(), "mount", "-o", self.options, "--foreground", "--session", self.session]
        argv += ["none", str(self.mnt)]
        argv = [*self.launcher, *argv]
        # A server whose test run was killed dies with it.
        if os.geteuid() == 0:
            dropped = (
                ["--bounding-set", ",".join(f"-{name}" for name in self.dropped)] if self.dropped else []
            )
            argv = ["setpriv", "--pdeathsig", "KILL", *dropped, "--", *argv]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        process = self.process
        assert process is not None

        def ready() -> bool:
            if process.poll() is not None:
                raise AssertionError(f"mount ended with {process.returncode}: {self.log.read_text()}")
            return is_mounted(self.mnt)

        eventually(ready, "the mount")
        os.statvfs(self.mnt)

    def stop(self) -> None:
        """Unmount; assert that the server ended well, that the mount is gone and that the log holds no surprise."""
        process, self.process = self.process, None
        if process is None:
            return
        try:
            if process.poll() is None or is_mounted(self.mnt):
                self._unmount()
            assert process.wait(DEADLINE) == 0, f"server exited {process.returncode}: {self.log.read_text()}"
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            if is_mounted(self.mnt):
                syscalls.umount2(str(self.mnt), syscalls.MNT_DETACH)
        assert not is_mounted(self.mnt)
        self._check_log()

    def _unmount(self) -> None:
        def unmounted() -> bool:
            try:
                syscalls.umount2(str(self.mnt))
            except OSError:
                return not is_mounted(
                    self.mnt
                )  # a command may have unmounted it, and its server be about to end
            return True

        # A process that a test has just reaped may hold the mount for a moment.
        eventually(unmounted, "umount")

    def _check_log(self) -> None:
        lines = self.log.read_text(errors="replace").splitlines()
        surprises = [
            line for line in lines if not any(re.search(p, line) for p in (HARMLESS_LOG, *self.allowed_log))
        ]
        assert not surprises, "unexpected in the server's log:\n" + "\n".join(surprises)

    def remount(self) -> None:
        """Unmount and mount again with the same options."""
        self.stop()
        self.start()

    def flush(self) -> None:
        """Turn pseudo-links into real ones through the command."""
        unionfs("flush", self.mnt)

    def change(self, options: str) -> subprocess.CompletedProcess[str]:
        """Run `unionfs remount -o OPTIONS`; {B0} and so on stand for the branches."""
        done = unionfs("remount", "-o", options.format(**self.branches), self.mnt, check=False)
        if done.returncode and self.process is not None:  # pytest shows it where that is a surprise
            print(f"server: {self.process.poll()}, log: {self.log.read_text(errors='replace')!r}")
        return done

    def status(self) -> dict[str, Any]:
        """Return what `unionfs status --json` says."""
        answer = json.loads(unionfs("status", "--json", self.mnt).stdout)
        assert isinstance(answer, dict)
        return answer

    def branch_list(self) -> list[str]:
        """Return `NAME=PERM+ATTR` of each branch as `unionfs branch list` prints them, by the test's own names."""
        lines = unionfs("branch", "list", self.mnt).stdout.splitlines()
        found = []
        for line in lines:
            match = re.search(r"(/\S+)=(\S+)", line)
            if match:
                found.append(f"{Path(match[1]).name}={match[2]}")
        return found

    def kill(self) -> None:
        """Kill the server at once, and detach the dead mount."""
        process, self.process = self.process, None
        assert process is not None
        process.send_signal(signal.SIGKILL)
        process.wait()
        if is_mounted(self.mnt):
            syscalls.umount2(str(self.mnt), syscalls.MNT_DETACH)


class Workshop:
    """Makes branches and unions under one directory, ends them all, and checks what had to stay as it was."""

    def __init__(self, root: Path, session: str = "auto") -> None:
        self.root = root
        self.session = session
        self.unions: list[Union] = []
        self._filesystems: list[Path] = []
        self._untouched: dict[Path, dict[str, tree.Entry]] = {}

    def directory(self, name: str, content: Tree | None = None) -> Path:
        """Make a directory that a test may use as a branch."""
        path = self.root / name
        tree.build(path, content or {})
        return path

    def filesystem(self, name: str, content: Tree | None = None, *, data: str = "mode=755") -> Path:
        """Make a tmpfs that a test may use as a branch; it goes away with the test."""
        path = self.directory(name)
        syscalls.mount("none", str(path), "tmpfs", 0, data)
        self._filesystems.append(path)
        tree.build(path, content or {})
        return path

    def block_device(self, name: str, megabytes: int, kind: str = "ext4", *options: str) -> Path:
        """Make a filesystem in a file, mounted by a loop device, that a test may use as a branch; `options` are mkfs'."""
        image = self.root / f"{name}.image"
        with image.open("wb") as file:
            file.truncate(megabytes << 20)
        subprocess.run([f"/sbin/mkfs.{kind}", "-q", *options, str(image)], check=True)
        path = self.directory(name)
        done = subprocess.run(
            ["mount", "-o", "loop", str(image), str(path)], check=False, capture_output=True
        )
        if done.returncode:
            pytest.skip(f"no loop device here: {done.stderr.decode().strip()}")
        self._filesystems.append(path)
        shutil.rmtree(path / "lost+found", ignore_errors=True)
        return path

    def prepare(self, options: str, changing: str, trees: Mapping[str, Tree | Path]) -> Union:
        """Make the branches and describe the union, without mounting it."""
        branches: dict[str, Path] = {}
        for name, content in trees.items():
            branches[name] = content if isinstance(content, Path) else self.directory(name, content)
        keep = set(list(branches)[1:]) - set(changing.split())
        self._untouched |= {
            branches[n]: tree.snapshot(branches[n], times=True, all_entries=True) for n in keep
        }
        mountpoint = self.root / f"U{len(self.unions)}"
        mountpoint.mkdir()
        text = options.format(**branches)
        if "br" not in re.split(r"[:=,]", text) and "dirs" not in re.split(r"[:=,]", text):
            text = ",".join(filter(None, ["br:" + ":".join(map(str, branches.values())), text]))
        union = Union(mountpoint, branches, text, self.root / f"server{len(self.unions)}.log", self.session)
        self.unions.append(union)
        return union

    def mount(
        self,
        options: str = "",
        /,
        *,
        changing: str = "",
        branches: Mapping[str, Tree | Path] | None = None,
        **trees: Tree | Path,
    ) -> Union:
        """Mount branches B0, B1… that hold `trees`; all but the first and those in `changing` must stay as they are.

        `options` may name the branches as {B0}; without a branch list all are taken, with default permissions.
        """
        union = self.prepare(options, changing, trees | dict(branches or {}))
        union.start()
        return union

    def close(self) -> None:
        """Stop every union; compare the branches that must not have changed."""
        problems: list[BaseException] = []
        for union in reversed(self.unions):
            try:
                union.stop()
            except BaseException as problem:  # the others must still be stopped
                problems.append(problem)
        for path, before in self._untouched.items():
            if path.exists():
                after = tree.snapshot(path, times=True, all_entries=True)
                difference = {n for n in before.keys() | after.keys() if before.get(n) != after.get(n)}
                if difference:
                    problems.append(
                        AssertionError(f"branch {path.name} was touched: {sorted(difference)[:10]}")
                    )
        for path in reversed(self._filesystems):
            syscalls.umount2(str(path), syscalls.MNT_DETACH)
        if problems:
            raise problems[0]
