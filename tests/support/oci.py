# SPDX-License-Identifier: Apache-2.0
"""Bundles for tests of `unionrt`: a small root of busybox, a config.json to change, and the program's commands on it."""

import copy
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime.oci.commands import spec

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "runtime" / "unionrt"
PATIENCE = 20.0

_BUSYBOX = shutil.which("busybox") or ""
_APPLETS = """[ ash awk basename cat chmod chown cp cut date dd df dirname echo env expr false find free grep head hostname
    id ifconfig ip kill killall ln ls md5sum mkdir mkfifo mknod mktemp mount mv nc nice nproc od printenv printf ps pwd
    readlink rm rmdir sed seq sh sleep sort stat stty sync tail tee test timeout top touch tr true tty umount uname uniq
    unshare usleep wc which whoami xargs yes"""


def can_run() -> bool:
    """Tell whether containers can be tested here."""
    return os.geteuid() == 0 and bool(_BUSYBOX)


def make_root(directory: Path) -> None:
    """Fill `directory` with a root file system of about 2 MB."""
    for name in ("bin", "dev", "etc", "home", "proc", "root", "sys", "tmp", "var/tmp"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    (directory / "tmp").chmod(0o1777)
    (directory / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\n")
    (directory / "etc/group").write_text("root:x:0:\nuser:x:1000:\n")
    shutil.copy(_BUSYBOX, directory / "bin/busybox")
    for applet in _APPLETS.split():
        (directory / "bin" / applet).symlink_to("busybox")


class Result(subprocess.CompletedProcess[str]):
    """What a command of the program did: `returncode`, `stdout`, `stderr`."""

    def lines(self) -> list[str]:
        """Return what it wrote, line by line."""
        return self.stdout.splitlines()


class Bundle:
    """A bundle with one container.

    `config` is what config.json will say when the next command is run: `unionrt spec` without a terminal. `rootfs` is its
    root; `state` the directory given as `--root`.
    """

    def __init__(self, directory: Path, identity: str = "") -> None:
        self.directory = directory
        self.rootfs = directory / "rootfs"
        self.state = directory / "state"
        self.id = identity or f"test-{os.getpid()}-{directory.name}"
        self.config: dict[str, Any] = copy.deepcopy(spec.default(rootless=False))
        self.config["process"]["terminal"] = False
        self.config["root"]["readonly"] = False
        if all(entry["type"] != "cgroup" for entry in self.config["linux"]["namespaces"]):
            self.config["linux"]["namespaces"].append({"type": "cgroup"})  # `spec` adds it on v2 only
        self.config["linux"]["cgroupsPath"] = f"/unionrt-{self.id}"
        self.environment: dict[str, str] = dict(os.environ)
        self.options: list[str] = []  # global options of every command
        self.prefix: list[str] = []  # a command that runs the program, as another user for example
        self._calls = 0
        make_root(self.rootfs)

    # what config.json says

    @property
    def process(self) -> dict[str, Any]:
        """`process` of the configuration."""
        process: dict[str, Any] = self.config["process"]
        return process

    @property
    def linux(self) -> dict[str, Any]:
        """`linux` of the configuration."""
        linux: dict[str, Any] = self.config["linux"]
        return linux

    def shell(self, script: str) -> None:
        """Make the container run `sh -c SCRIPT`."""
        self.process["args"] = ["/bin/sh", "-c", script]

    def mount(self, destination: str, **rest: Any) -> None:
        """Add a mount to the configuration."""
        self.config["mounts"].append({"destination": destination, **rest})

    def save(self) -> None:
        """Write config.json."""
        (self.directory / "config.json").write_text(json.dumps(self.config))

    # commands

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of `unionrt ARGUMENTS`."""
        return [*self.prefix, str(PROGRAM), "--root", str(self.state), *self.options, *arguments]

    def call(
        self,
        *arguments: str,
        check: bool = True,
        stdin: str | None = None,
        pass_fds: Sequence[int] = (),
        env: Mapping[str, str] | None = None,
    ) -> Result:
        """Run `unionrt ARGUMENTS` to its end; its streams are files, as a container may keep them open."""
        self._calls += 1
        paths = [self.directory / f"{self._calls}.{name}" for name in ("in", "out", "err")]
        paths[0].write_text(stdin or "")
        with paths[0].open() as source, paths[1].open("w") as out, paths[2].open("w") as err:
            done = subprocess.run(
                self.command(*arguments),
                stdin=source,
                stdout=out,
                stderr=err,
                timeout=60,
                cwd=self.directory,
                env=env if env is not None else self.environment,
                pass_fds=pass_fds,
            )
        result = Result(done.args, done.returncode, *(path.read_text(errors="replace") for path in paths[1:]))
        if check:
            assert result.returncode == 0, f"{arguments}: {result.returncode}\n{result.stdout}{result.stderr}"
        return result

    def run(
        self, *options: str, args: Sequence[str] = (), check: bool = True, stdin: str | None = None
    ) -> Result:
        """`unionrt run` in the foreground, of `args` if given."""
        if args:
            self.process["args"] = list(args)
        self.save()
        return self.call("run", *options, self.id, check=check, stdin=stdin)

    def create(self, *options: str, check: bool = True) -> Result:
        """`unionrt create`; what the container writes is in `output()`."""
        self.save()
        return self.call("create", *options, self.id, check=check)

    def start(self, *, check: bool = True) -> Result:
        """`unionrt start`."""
        return self.call("start", self.id, check=check)

    def detach(self, *options: str, args: Sequence[str] = ("/bin/sleep", "1000")) -> dict[str, Any]:
        """`unionrt run --detach` of a program that stays; return the container's state."""
        self.run("--detach", *options, args=args)
        return self.status()

    def exec(self, *arguments: str, check: bool = True, stdin: str | None = None) -> Result:
        """`unionrt exec ID ARGUMENTS`; options of exec may come first."""
        position = 0
        while position < len(arguments) and arguments[position].startswith("-"):
            position += 1
        return self.call(
            "exec", *arguments[:position], self.id, *arguments[position:], check=check, stdin=stdin
        )

    def status(self) -> dict[str, Any]:
        """`unionrt state`, parsed."""
        value: dict[str, Any] = json.loads(self.call("state", self.id).stdout)
        return value

    def kill(self, number: str = "KILL", *options: str, check: bool = True) -> Result:
        """`unionrt kill`."""
        return self.call("kill", *options, self.id, number, check=check)

    def delete(self, *options: str, check: bool = True) -> Result:
        """`unionrt delete`."""
        return self.call("delete", *options, self.id, check=check)

    def output(self) -> str:
        """Return all that commands and containers wrote to standard output so far."""
        found = sorted(self.directory.glob("*.out"), key=lambda path: int(path.stem))
        return "".join(path.read_text(errors="replace") for path in found)

    def wait_for_status(self, status: str) -> None:
        """Wait until the container has this status."""
        wait_until(lambda: self.status()["status"] == status, f"{self.id} is {status}")

    def close(self) -> None:
        """Delete the container, whatever its state, and check that it left nothing."""
        for path in self.state.glob("*") if self.state.is_dir() else ():
            if not path.name.startswith("."):
                self.call("delete", "--force", path.name)
        assert self.leftovers() == []

    def leftovers(self) -> list[str]:
        """Return what the container left behind: state, cgroups, mounts."""
        left = [str(path) for path in self.state.glob("[!.]*")] if self.state.is_dir() else []
        name = self.linux.get("cgroupsPath", "/" + self.id).strip("/")
        left += [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/{name}")]
        left += [str(path) for path in Path("/sys/fs/cgroup").glob(name)]
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        return left + [line for line in mounts if str(self.directory) in line]


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        signal.sigtimedwait([], 0.01)


def wait_for_end(pid: int) -> None:
    """Wait until a process has ended (a zombie has)."""
    wait_until(lambda: has_ended(pid), f"process {pid} has ended")


def has_ended(pid: int) -> bool:
    """Tell whether a process is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return text.rpartition(")")[2].split()[0] in "ZX"
