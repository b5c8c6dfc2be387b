# SPDX-License-Identifier: Apache-2.0
"""The program `unionbox`: reads the command line and calls the engine. Nothing else lives here."""

import argparse
import logging
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from runtime.engine import container as containers
from runtime.engine import foreground, ids, request
from runtime.engine.wish import Wish
from runtime.oci import console
from runtime.oci.cgroups import layout
from runtime.oci.cgroups.files import read
from unionfs.cli.arguments import Parser, Version
from unionfs.errors import UserError
from unionfs.program import run_command, set_up_log

FAILED = 125
# What podman gives: more than programs need, less than the machine has.
_DEFAULT_PIDS = 2048
_MOST_CPUS = 1e6  # the kernel has no more than some thousand
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}

_EXAMPLES = """\
examples:
  unionbox run -it -- bash                         a shell on this machine's own root; its changes vanish
  mkdir -m 700 kept; mkdir kept/x                  a place for changes where no other user can go
  unionbox run --rw kept/x -- touch /etc/mine      the same root, but keep the changes there
  mkdir layer; echo new > layer/motd               a layer: an unpacked image, or some files for another one
  unionbox run --rootfs layer:/ -- cat /motd       layers, the top one first
  unionbox run --memory 64m --cpus 0.5 --pids 100 -- nproc

exit status: the command's own, 128+N if signal N killed it, 125 if the container could not be started,
126 if the command cannot be executed, 127 if it was not found.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    set_up_log(logging.StreamHandler(), logging.WARNING, "unionbox: %(message)s")
    return run_command("unionbox", lambda: _run(_parser().parse_args(arguments)), failed=FAILED)


class _Parser(Parser):
    wrong_usage = FAILED

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Complain of unknown short options too, and in the command that does not know them, whose help is to be seen."""
        parsed, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(f"unknown option {rest[0]}")
        return parsed, rest

    def error(self, message: str) -> NoReturn:
        """Say of several letters behind one dash which of them is unknown."""
        found = re.fullmatch(r"argument -.*: ignored explicit argument '(.).*'", message)
        super().error(f"unknown option -{found[1]}" if found else message)


def parse_size(text: str) -> int:
    """Read a size such as 64m, 1.5g or 4096 (bytes)."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([bkmgt]?)b?", text.strip().lower())
    size = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not 1 <= size < 1 << 63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 64m or 1g")
    return int(size)


def parse_cpus(text: str) -> float:
    """Read a number of CPUs such as 0.5."""
    if not re.fullmatch(r"\d*\.?\d+", text) or not 0.01 <= float(text) <= _MOST_CPUS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of CPUs such as 0.5 (at least 0.01)")
    return float(text)


def parse_count(text: str) -> int:
    """Read a positive number."""
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def parse_pids(text: str) -> int:
    """Read a number of processes; 0 for `max`, which is no limit."""
    return 0 if text == "max" else parse_count(text)


def parse_hostname(text: str) -> str:
    """Check a host name."""
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,62}[A-Za-z0-9])?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a host name")
    return text


def parse_workdir(text: str) -> str:
    """Check a working directory."""
    if not text.startswith("/") or ".." in text.split("/"):
        raise argparse.ArgumentTypeError(f"{text!r} is not an absolute path without ..")
    return text


def _parser() -> Parser:
    parser = _Parser(prog="unionbox", description="Run containers on a union filesystem.")
    parser.add_argument("--version", action=Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser(
        "run",
        help="run a command in a new container",
        description="Run a command in new namespaces, with a union as its root.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="unionbox run [OPTION...] -- COMMAND [ARG...]",
    )
    run.add_argument("--rootfs", metavar="DIR[:DIR...]", help="read-only layers, top first (default: /)")
    run.add_argument(
        "--rw", metavar="DIR", help="keep the container's changes in DIR (default: discard them)"
    )
    run.add_argument("--memory", "-m", type=parse_size, metavar="SIZE", help="memory limit, such as 64m")
    run.add_argument("--cpus", type=parse_cpus, metavar="N", help="CPU limit, such as 0.5")
    run.add_argument(
        "--pids",
        type=parse_pids,
        metavar="N",
        help=f"limit of processes and threads, or max; default: {_DEFAULT_PIDS}",
    )
    run.add_argument("--hostname", type=parse_hostname, metavar="NAME", help="default: the container's id")
    run.add_argument("--network", choices=("none", "host"), default="none", help="default: none, only lo")
    run.add_argument(
        "--userns", action="store_true", help="own user namespace: root inside is nobody outside"
    )
    run.add_argument(
        "--env", "-e", action="append", default=[], metavar="K[=V]", help="set or pass a variable"
    )
    run.add_argument("--workdir", "-w", type=parse_workdir, default="/", metavar="DIR")
    run.add_argument("--user", "-u", default="0", metavar="USER[:GROUP]", help="names or numbers; default: 0")
    run.add_argument("--no-new-privileges", action="store_true", help="setuid programs give nothing")
    run.add_argument("-i", "--interactive", dest="stdin", action="store_true", help="connect standard input")
    run.add_argument("-t", "--tty", dest="terminal", action="store_true", help="give the command a terminal")
    run.add_argument("--init", action="store_true", help="a tiny pid 1 that forwards signals and reaps")
    # What people type from habit, and what holds in any case.
    run.add_argument("--rm", action="store_true", help="always so: nothing of a container stays but --rw")
    # For tests of the low level: a plain bind mount of DIR as root, without a union.
    run.add_argument("--plain-rootfs", metavar="DIR", help=argparse.SUPPRESS)
    run.add_argument("arguments", nargs=argparse.REMAINDER, metavar="COMMAND")
    return parser


def _run(options: argparse.Namespace) -> int:
    if options.stdin and options.terminal and not os.isatty(0):
        raise UserError("standard input is not a terminal", "leave out -t")
    arguments = options.arguments[1:] if options.arguments[:1] == ["--"] else options.arguments
    if not arguments:
        raise UserError("no command is given", "write: unionbox run -- COMMAND")
    root = containers.default_root()
    wish = _wish(options, arguments)
    containers.sweep(root)
    container = containers.create(root)
    try:
        asked = request.prepare(wish, _layers(options), options.rw, container, root=os.path.realpath(root))
    except BaseException:
        container.clean()
        raise
    return foreground.run(asked, container)


def _layers(options: argparse.Namespace) -> list[str]:
    if options.rootfs is None:
        return ["/"]
    layers = [path for path in options.rootfs.split(":") if path]
    if not layers:
        raise UserError("--rootfs names no directory")
    return layers


def _pids(asked: int | None) -> int | None:
    """Return the limit of processes: by default none of an ordinary user's, who may not set any."""
    if asked is None and os.geteuid() == 0:
        groups = layout.detect()
        if "pids" in groups.v1 or "pids" in (read(groups.v2, "cgroup.controllers") or "").split():
            return _DEFAULT_PIDS
    return asked or None


def _wish(options: argparse.Namespace, arguments: Sequence[str]) -> Wish:
    uid_map, gid_map = ids.for_container(wanted=options.userns or not _is_root(options.user))
    environment = _environment(options.env)
    if options.terminal and "TERM" in os.environ:
        environment = [f"TERM={os.environ['TERM']}", *environment]
    return Wish(
        arguments=tuple(arguments),
        environment=tuple(environment),
        directory=options.workdir,
        user=options.user,
        terminal=options.terminal,
        window=console.window_of(1) if options.terminal and os.isatty(1) else None,
        stdin=options.stdin,
        init=options.init,
        no_new_privileges=options.no_new_privileges,
        hostname=options.hostname or "",
        host_network=options.network == "host",
        memory=options.memory,
        cpus=options.cpus,
        pids=_pids(options.pids),
        uid_map=uid_map,
        gid_map=gid_map,
        plain_rootfs=options.plain_rootfs,
    )


def _is_root(user: str) -> bool:
    """Tell whether --user is certainly root; other names the container's /etc/passwd knows."""
    return all(word in ("", "0", "root") for word in user.split(":"))


def _environment(words: Sequence[str]) -> list[str]:
    result = []
    for word in words:
        name, separator, _ = word.partition("=")
        if not name:
            raise UserError(f"--env {word!r} names no variable", "write NAME=VALUE")
        if separator:
            result.append(word)
        elif name in os.environ:
            result.append(f"{name}={os.environ[name]}")
    return result


if __name__ == "__main__":
    sys.exit(main())
