# SPDX-License-Identifier: Apache-2.0
"""What all programs have in common: wrong usage and lost output are one line each, whatever their standard streams are."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import unionfs
from tests.support import oci
from unionfs.program import one_line

PROGRAMS = {
    "unionfs": ([sys.executable, "-m", "unionfs.cli.main"], 2),
    "mount.unionfs": ([sys.executable, "-m", "unionfs.cli.mount_helper"], 1),
    "unionfs-overlay": ([sys.executable, "-m", "unionfs.cli.overlay"], 2),
    "unionbox": ([sys.executable, "-m", "runtime.cli"], 125),
    "unionbench": ([sys.executable, "-m", "bench.cli"], 2),
    "unionrt": ([str(oci.PROGRAM)], 1),
}
each_program = pytest.mark.parametrize("name", PROGRAMS)


def run(name: str, *words: str, shell: str = 'exec "$@"') -> subprocess.CompletedProcess[str]:
    """Run a program; `shell` says what becomes of its streams."""
    command, _ = PROGRAMS[name]
    return subprocess.run(
        ["sh", "-c", shell, "sh", *command, *words],
        cwd=Path(__file__).parents[2],
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


@each_program
@pytest.mark.parametrize("words", [["--nonsense"], ["--non\nsense\x1b[31m"], ["a", "b", "c", "--x"]])
def test_wrong_usage_is_one_line_with_the_programs_status(name: str, words: list[str]) -> None:
    """What is wrong is one line that nothing in it can break or colour."""
    done = run(name, *words)
    assert done.returncode == PROGRAMS[name][1], done.stderr
    assert done.stderr.startswith(f"{name}: ") and done.stderr.count("\n") == 1
    assert "\x1b" not in done.stderr and not done.stdout


@each_program
def test_help_for_a_reader_that_leaves_is_no_error_message(name: str) -> None:
    """As in `PROGRAM --help | true`: the pipe says it all."""
    done = run(name, "--help", shell='"$@" | true')
    assert (done.returncode, done.stderr) == (0, "")


@each_program
def test_help_for_a_reader_that_leaves_is_no_error_without_a_buffer(name: str) -> None:
    """The same where each line is written at once."""
    done = run(name, "--help", shell='PYTHONUNBUFFERED=1 "$@" | true')
    assert (done.returncode, done.stderr) == (0, "")


@each_program
def test_lost_output_is_told(name: str) -> None:
    """A full disk behind standard output is an error, in one line."""
    done = run(name, "--help", shell='exec "$@" >/dev/full')
    assert done.returncode == (125 if name == "unionbox" else 32 if name == "mount.unionfs" else 1)
    assert done.stderr.startswith(f"{name}: standard output: ") and done.stderr.count("\n") == 1


@each_program
def test_closed_streams_are_made_up_for(name: str) -> None:
    """Without standard streams a program does its work."""
    done = run(name, "--help", shell='exec "$@" <&- >&- 2>&-')
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@each_program
def test_version_is_one_for_all_programs(name: str) -> None:
    """`--version` names the program and the package's version; unionrt says it as runc does."""
    word = "version " if name == "unionrt" else ""
    assert run(name, "--version").stdout.splitlines()[0] == f"{name} {word}{unionfs.__version__}"


def test_one_line_escapes_what_is_no_text_or_controls_a_terminal() -> None:
    """A name may hold any bytes; letters of all scripts stay."""
    assert one_line("a\nb\x1b[1m\udcff ü\u2028x") == "a\\nb\\x1b[1m\\xff ü\\u2028x"
