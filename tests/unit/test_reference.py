# SPDX-License-Identifier: Apache-2.0
"""The reference of unionrt in docs/unionrt.md has every command and every option."""

import re
from pathlib import Path

import pytest

from runtime.oci import program
from runtime.oci.settings import GLOBAL

TEXT = (Path(__file__).parents[2] / "docs/unionrt.md").read_text().partition("\n## Processes")[0]
WORDS = set(re.findall(r"--[a-z][a-z0-9-]+", TEXT))


def test_reference_has_every_global_option() -> None:
    assert {f"--{option.name}" for option in GLOBAL} <= WORDS


@pytest.mark.parametrize("command", program.COMMANDS)
def test_reference_has_every_option_of_the_command(command: str) -> None:
    assert re.search(rf"^### .*\b{command}\b", TEXT, re.MULTILINE)
    assert {f"--{option.name}" for option in program.load(command).COMMAND.options} <= WORDS


def test_reference_has_no_option_that_is_unknown() -> None:
    """Apart from those of other programs in the examples."""
    commands = [program.load(command).COMMAND for command in program.COMMANDS]
    known = {f"--{option.name}" for options in (GLOBAL, *(c.options for c in commands)) for option in options}
    examples = {"--runtime", "--rm", "--add-runtime", "--runc-binary"}
    assert known | {"--help", "--name"} | examples >= WORDS
