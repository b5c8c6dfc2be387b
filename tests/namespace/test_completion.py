# SPDX-License-Identifier: Apache-2.0
"""Bash completion of unionbox knows the program's options."""

import re
import subprocess
from pathlib import Path

import pytest

from runtime import cli

SCRIPT = Path(__file__).parents[2] / "docs/completion/unionbox.bash"


def complete(*words: str) -> set[str]:
    """Return what is offered for the last word."""
    shell = f'source "{SCRIPT}"; COMP_WORDS=(unionbox "$@"); COMP_CWORD=$#; _unionbox; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", shell, "bash", *words], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return set(done.stdout.split())


def test_options_are_those_of_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    """`unionbox run` offers exactly the long options that its help has."""
    with pytest.raises(SystemExit):
        cli.main(["run", "--help"])
    known = set(
        re.findall(
            r"--[a-z-]+", capsys.readouterr().out.partition("\noptions:")[2].partition("\nexamples:")[0]
        )
    )
    assert complete("run", "--") == known | {"--help", "--"}


def test_values_and_the_command_are_completed(tmp_path: Path) -> None:
    """Directories for layers, programs for the command, files for its arguments."""
    (tmp_path / "layer").mkdir()
    (tmp_path / "file").touch()
    assert complete("r") == {"run"}
    assert complete("run", "--rootfs", f"{tmp_path}/") == {f"{tmp_path}/layer"}
    assert complete("run", "--rootfs", "x", ":", f"{tmp_path}/") == {f"{tmp_path}/layer"}
    assert complete("run", "--network", "h") == {"host"}
    assert "true" in complete("run", "--", "tru")
    assert complete("run", "--", "cat", f"{tmp_path}/f") == {f"{tmp_path}/file"}
