# SPDX-License-Identifier: Apache-2.0
"""Bash completion of unionrt knows the program's commands and options, and the containers there are."""

import subprocess
from pathlib import Path

import pytest

from runtime.oci import program
from runtime.oci.settings import GLOBAL
from tests.support.oci import PROGRAM

SCRIPT = Path(__file__).parents[2] / "docs/completion/unionrt.bash"


def complete(*words: str) -> set[str]:
    """Return what is offered for the last word."""
    shell = f'unionrt() {{ "{PROGRAM}" "$@"; }}; source "{SCRIPT}"; '
    shell += 'COMP_WORDS=(unionrt "$@"); COMP_CWORD=$#; _unionrt; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", shell, "bash", *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return set(done.stdout.split())


def test_first_word_offers_every_command() -> None:
    """All commands, and those that begin with what was typed; global options before them."""
    assert complete("") == set(program.COMMANDS)
    assert complete("res") == {"resume", "restore"}
    assert complete("--log", "x", "--debug", "fea") == {"features"}
    assert complete("--") == {f"--{option.name}" for option in GLOBAL} | {"--help"}


@pytest.mark.parametrize("command", program.COMMANDS)
def test_options_are_those_of_the_command(command: str) -> None:
    """Each command offers exactly its own long options."""
    options = program.load(command).COMMAND.options
    assert complete(command, "--") == {f"--{option.name}" for option in options} | {"--help"}


def test_values_are_completed_by_their_kind(tmp_path: Path) -> None:
    """A directory, a file or one of some words, as the help calls it; also after an equals sign, where bash splits."""
    (tmp_path / "bundle").mkdir()
    (tmp_path / "file").touch()
    assert complete("run", "--bundle", f"{tmp_path}/") == {f"{tmp_path}/bundle"}
    assert complete("run", "-f", f"{tmp_path}/f") == {f"{tmp_path}/file"}
    assert complete("--log-format", "=", "j") == {"json"}
    assert complete("list", "--format", "") == {"table", "json"}
    assert complete("exec", "--user", "") == set()


def test_containers_are_offered_where_one_is_wanted(tmp_path: Path) -> None:
    """The ids come from `list -q` below the given root; a new container's is for the user to choose."""
    for name in ("web-1", "web-2", "other"):
        (tmp_path / name).mkdir()
    root = ("--root", str(tmp_path))
    assert complete(*root, "state", "") == {"web-1", "web-2", "other"}
    assert complete("--root", "=", str(tmp_path), "kill", "--all", "web") == {"web-1", "web-2"}
    assert complete(*root, "kill", "web-1", "SIGTER") == {"SIGTERM"}
    assert complete(*root, "exec", "--env", "A", "=", "1", "ot") == {"other"}
    assert complete(*root, "exec", "other", "") == set()
    assert complete(*root, "run", "") == set()
