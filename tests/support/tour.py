# SPDX-License-Identifier: Apache-2.0
"""The pages of docs/tour as a learner takes them: what stands behind the prompts, and what is shown to come of it."""

import re
from collections.abc import Iterator
from pathlib import Path

TOUR = Path(__file__).parents[2] / "docs/tour"


def examples(page: str) -> Iterator[tuple[str, str]]:
    """Yield each command of a page's consoles with the lines that the page shows below it."""
    for block in re.findall(r"^```console\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        lines = iter(block.splitlines())
        command = ""
        shown: list[str] = []
        for line in lines:
            if line.startswith("$ "):
                if command:
                    yield command, "".join(shown)
                command, shown = line[2:], []
            elif line.startswith(">"):
                command += "\n" + line[1:]
            else:
                shown.append(line + "\n")
            if command.endswith("\\"):
                command += "\n" + next(lines)
            if command.endswith("<<'EOF'"):
                while not command.endswith("\nEOF"):
                    command += "\n" + next(lines)
        yield command, "".join(shown)


def commands(page: str) -> Iterator[str]:
    """Yield what stands behind the prompts of a page, without what it prints."""
    return (command for command, _ in examples(page))
