# SPDX-License-Identifier: Apache-2.0
"""`make demo`: live in a container on this machine's own root, then look at what it changed, and at what it did not."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from unionfs.branches.branch import Branch
from unionfs.errors import UserError
from unionfs.server.mount import MountPlan, mount_in_background, wait_for_end

PACKAGE = "hello"
_MOST_SHOWN = 8

# Where apt cannot, for whatever reason, it is told, and a small package is made; where dpkg cannot either, that is told too.
INSTALL = f"""
exec 3>&1 >/tmp/log 2>&1
apt-get -qq -o Acquire::Retries=0 -o Acquire::http::Timeout=8 update
apt-get -qq -y install {PACKAGE} && exec {PACKAGE} >&3
{{ echo '(apt-get cannot install it here:'; grep '^[EW]:' /tmp/log | tail -n 2; echo ' building a small package)'; }} >&3
mkdir -p /tmp/p/DEBIAN /tmp/p/usr/bin
printf 'Package: {PACKAGE}\\nVersion: 1\\nArchitecture: all\\nMaintainer: demo <demo@localhost>\\nDescription: demo\\n' \
    > /tmp/p/DEBIAN/control
printf '#!/bin/sh\\necho Hello, world!\\n' > /tmp/p/usr/bin/{PACKAGE}
chmod 755 /tmp/p/usr/bin/{PACKAGE}
dpkg-deb --build /tmp/p /tmp/p.deb
dpkg -i /tmp/p.deb && exec {PACKAGE} >&3
{{ tail -n 2 /tmp/log; echo '(dpkg cannot either; going on without)'; }} >&3
"""

COMPILE = """
mkdir -p /opt/demo && cd /opt/demo
cat > answer.c <<'END'
#include <stdio.h>
#include <unistd.h>
int main(void) { printf("compiled here, running as pid %d\\n", getpid()); return 0; }
END
gcc -O2 -o answer answer.c && ./answer
"""

VENV = """
/usr/bin/python3 -m venv --without-pip /opt/demo/venv
/opt/demo/venv/bin/python -c 'import sys; print("Python", sys.version.split()[0], "from", sys.prefix)'
"""

CLUMSY = "rm -r /etc/apt /usr/share/doc; echo oops >> /etc/debian_version; ls /usr/share/doc 2>&1; tail -1 /etc/debian_version"


def main(arguments: Sequence[str] = ()) -> int:
    """Run the demo and return the exit status; with --short without what takes long, for the tests."""
    if os.geteuid() != 0:
        print("demo: mounting and namespaces need root here; try: sudo make demo", file=sys.stderr)
        return 1
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="union-demo-", dir="/var/tmp") as name:
        branch, target = Path(name, "rw"), Path(name, "mnt")
        branch.mkdir()
        target.mkdir()
        try:
            _live(branch, short="--short" in arguments)
            _look(branch, target)
        except (UserError, subprocess.CalledProcessError) as error:
            reason = error if isinstance(error, UserError) else f"the step above failed ({error.returncode})"
            print(f"demo: {reason}", file=sys.stderr)
            return 1
    _say(f"Nothing is left of it. The whole demo took {time.monotonic() - begin:.0f} seconds.")
    return 0


def _live(branch: Path, *, short: bool) -> None:
    _say("A container whose root is this machine's own /, read-only below a private branch")
    _run("run", "--rw", str(branch), "--", "sh", "-c", "hostname; id -un; ls /proc | grep -c '^[0-9]'")
    if not short:
        _say(f"Install a package in it: {PACKAGE}")
        _box(branch, INSTALL, "--network", "host")
        _say("Compile and run a C program, with the machine's gcc, under limits")
        _box(branch, COMPILE, "--memory", "512m", "--cpus", "1", "--pids", "100")
        _say("Make a Python virtual environment")
        _box(branch, VENV)
    _say("Be clumsy")
    _box(branch, CLUMSY)


def _look(branch: Path, target: Path) -> None:
    _say("The machine itself has seen nothing of this")
    _show(f"which {PACKAGE}:", shutil.which(PACKAGE) or "not here")
    _show("/etc/apt:", "still here" if Path("/etc/apt").is_dir() else "lost!")
    spoiled = "oops" in Path("/etc/debian_version").read_text()
    _show("/etc/debian_version:", "changed!" if spoiled else "unchanged")
    _say("What changed is in the rw branch, in AUFS' format")
    for line in _summary(list(_changes(branch, Path("/")))):
        print("   ", line)
    _say("The same union on a mount point, seen through `unionfs`")
    plan = MountPlan((Branch(str(branch), "rw"), Branch("/", "ro")), str(target), overlap_ok=True)
    server = mount_in_background(plan)
    try:
        _unionfs("status", str(target))
        paths = ["etc/debian_version", f"usr/bin/{PACKAGE}", "etc/apt", "etc/passwd"]
        _unionfs(
            "which", *(str(target / path) for path in paths), status=1
        )  # one of them is not there any more
    finally:
        _unionfs("umount", str(target))
        wait_for_end(server)


def _changes(branch: Path, base: Path) -> Iterator[tuple[str, str]]:
    """Yield (kind, path) for every name of the rw branch that adds to, changes or removes from `base`."""
    for parent, directories, files in os.walk(branch):
        place = Path("/") / Path(parent).relative_to(branch)
        directories[:] = sorted(name for name in directories if not name.startswith(".wh."))
        for name in sorted(files):
            if name.startswith(".wh..wh."):
                continue
            if name.startswith(".wh."):
                yield "removed", str(place / name.removeprefix(".wh."))
            else:
                below = base / (place / name).relative_to("/")
                yield ("changed" if os.path.lexists(below) else "new"), str(place / name)


def _summary(changes: Sequence[tuple[str, str]]) -> list[str]:
    lines = []
    for kind in ("removed", "changed", "new"):
        paths = sorted((path for found, path in changes if found == kind), key=lambda path: path.count("/"))
        lines += [f"{kind:8} {path}" for path in paths[:_MOST_SHOWN]]
        if len(paths) > _MOST_SHOWN:
            lines.append(f"{kind:8} ... and {len(paths) - _MOST_SHOWN} more")
    return lines


def _box(branch: Path, script: str, *options: str) -> None:
    _run("run", "--rw", str(branch), *options, "--", "sh", "-c", script)


def _run(*arguments: str) -> None:
    shown = [word if len(word) < 60 and "\n" not in word else "..." for word in arguments]
    _execute("runtime.cli", "unionbox", shown, arguments, 0)


def _unionfs(*arguments: str, status: int = 0) -> None:
    _execute("unionfs.cli.main", "unionfs", arguments, arguments, status)


def _execute(module: str, name: str, shown: Sequence[str], arguments: Sequence[str], status: int) -> None:
    print(_paint("2", f"    $ {name} {' '.join(_quoted(word) for word in shown)}"), flush=True)
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        text=True,
        errors="replace",
    )
    for line in done.stdout.splitlines():
        print("   ", line)
    if done.returncode != status:
        done.check_returncode()


def _quoted(word: str) -> str:
    return f"'{word}'" if " " in word else word


def _say(text: str) -> None:
    print(f"\n{_paint('1;36', '==')} {_paint('1', text)}", flush=True)


def _show(name: str, value: str) -> None:
    print(f"    {name:12} {value}")


def _paint(code: str, text: str) -> str:
    plain = not stat.S_ISCHR(os.fstat(1).st_mode) or not os.isatty(1) or "NO_COLOR" in os.environ
    return text if plain else f"\033[{code}m{text}\033[0m"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
