# SPDX-License-Identifier: Apache-2.0
"""The program `unionfs-overlay`: fuse-overlayfs' command line on a union.

podman, buildah and containers-storage call it as their `mount_program`; mount(8) calls it, through mount.fuse3, as the
helper of type `fuse.unionfs-overlay`. It prints nothing unless it fails.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import unionfs
from unionfs.errors import UserError
from unionfs.program import run_command

PROGRAM = "unionfs-overlay"
_HELP = f"""\
usage: {PROGRAM} [-f] [-d] [-o OPTIONS] [SOURCE] MOUNTPOINT

Merge directories with overlay's words: lowerdir=A:B:C (A on top), upperdir=DIR (takes all changes), workdir=DIR (not
used). Without upperdir the union is read-only.

  -o OPTIONS      lowerdir=, upperdir=, workdir=, ro, noatime, volatile, fsync=0, allow_other, noacl, uidmapping=,
                  gidmapping=, redirect_dir=, metacopy=, ...
  -f              stay in the foreground
  -d              the same, and log every detail
  -h, --help      print this text
  -V, --version   print the version

example:
  {PROGRAM} -o lowerdir=/layers/2:/layers/1,upperdir=/work/up,workdir=/work/tmp /mnt
"""


@dataclass(slots=True)
class _CommandLine:
    options: str = ""
    foreground: bool = False
    debug: bool = False
    words: tuple[str, ...] = ()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    return run_command(PROGRAM, lambda: _run(argv))


def _read(argv: list[str]) -> _CommandLine:
    """Read the command line; options may stand anywhere, as libfuse allows."""
    line = _CommandLine()
    options: list[str] = []
    words: list[str] = []
    rest = iter(argv)
    for word in rest:
        if word == "-o":
            options.append(_next(rest, word))
        elif word.startswith("-o"):
            options.append(word[2:])
        elif word in ("-f", "--foreground"):
            line.foreground = True
        elif word in ("-d", "--debug"):
            line.debug = line.foreground = True
        elif word == "-t":
            _next(rest, word)
        elif word.startswith("-") and word not in ("-s", "-n", "-v", "--"):
            raise UserError(f"unknown argument {word!r}", f"see {PROGRAM} --help", status=2)
        elif not word.startswith("-"):
            words.append(word)
    line.options = ",".join(options)
    line.words = tuple(words)
    return line


def _next(rest: Iterator[str], option: str) -> str:
    value = next(rest, None)
    if value is None:
        raise UserError(f"{option} needs a value", f"see {PROGRAM} --help", status=2)
    return value


def _run(argv: list[str]) -> int:
    if "-h" in argv or "--help" in argv:
        print(_HELP, end="")
        return 0
    if "-V" in argv or "--version" in argv:
        print(f"{PROGRAM} {unionfs.__version__}")
        return 0
    return _mount(_read(argv))


def _mount(line: _CommandLine) -> int:
    from unionfs.options.overlay import parse

    if not 1 <= len(line.words) <= 2:
        raise UserError(
            "one mount point (and a source before it) is needed", f"see {PROGRAM} --help", status=2
        )
    request = parse(line.options)
    target = line.words[-1]
    if request.remount:
        from unionfs.session import device

        device.remount(target, request.flag_words)
        return 0
    from unionfs.kernel.reserve import raise_limit
    from unionfs.server.mount import MountPlan, default_flags, mount_in_background, serve

    source = line.words[0] if len(line.words) == 2 else PROGRAM
    plan = MountPlan(
        branches=request.branches,
        target=target,
        options=request.options,
        flags=default_flags(request.flags),
        fsname=request.fsname or source,
        subtype=PROGRAM if request.subtype is None else request.subtype,
        debug=line.debug or request.debug,
    )
    raise_limit()
    if line.foreground:
        return serve(plan, lambda: None)
    mount_in_background(plan, ends=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
