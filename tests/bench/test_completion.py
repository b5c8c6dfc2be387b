# SPDX-License-Identifier: Apache-2.0
"""Bash completion of unionbench knows the program's commands, options and names."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench import cli
from bench.runtimes import RUNTIMES
from bench.targets import TARGETS
from bench.workloads import SUITES

SCRIPT = Path(__file__).parents[2] / "docs/completion/unionbench.bash"
COMMANDS = ("quick", "run", "full", "selftest", "list", "report", "show", "compare")


def complete(*words: str) -> set[str]:
    """Return what is offered for the last word."""
    program = f'unionbench() {{ "{sys.executable}" -m bench.cli "$@"; }}; source "{SCRIPT}"; '
    program += 'COMP_WORDS=(unionbench "$@"); COMP_CWORD=$#; _unionbench; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", program, "bash", *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_first_word_offers_every_command() -> None:
    """All commands, and those that begin with what was typed."""
    assert complete("") >= set(COMMANDS)
    assert complete("re") == {"report"}


@pytest.mark.parametrize("command", COMMANDS)
def test_options_are_those_of_the_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command offers exactly the long options that its help has."""
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    known = set(re.findall(r"--[a-z]+", capsys.readouterr().out.partition("\noptions:")[2]))
    assert complete(command, "--") == known | {"--help"}


def test_lists_of_suites_and_targets_are_completed_at_the_comma() -> None:
    """The names come from the program; what stands before the comma stays."""
    assert complete("run", "--suite", "") == set(SUITES)
    assert complete("run", "--suite", "data,meta") == {"data,metadata"}
    assert complete("run", "--suite", "data,containers/de") == {"data,containers/density"}
    assert complete("quick", "--targets", "") == {*TARGETS, *RUNTIMES}
