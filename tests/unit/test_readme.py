# SPDX-License-Identifier: Apache-2.0
"""README.md and README.zh.md say the same: as many headings, tables and links, and every command."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENGLISH, CHINESE = ((ROOT / name).read_text() for name in ("README.md", "README.zh.md"))


def _prose(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def _commands(text: str) -> list[str]:
    """Return the lines of all code blocks without their comments, which are translated."""
    blocks = re.findall(r"^```\w+\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [re.sub(r"\s*(?<!\S)#.*", "", line) for block in blocks for line in block.splitlines()]


def _levels(text: str) -> list[str]:
    return re.findall(r"^#+(?= )", _prose(text), re.MULTILINE)


def _figures(text: str) -> list[list[str]]:
    """Return the cells of each table row but the first, which is words."""
    return [line.split("|")[2:] for line in text.splitlines() if line.startswith("|")]


def _links(text: str) -> list[str]:
    return [target for target in re.findall(r"\]\(([^)]+)\)", text) if not target.startswith("README")]


def test_readmes_have_the_same_commands_and_headings() -> None:
    """A reader of either can paste the same, and finds it in the same place."""
    assert _commands(CHINESE) == _commands(ENGLISH)
    assert _levels(CHINESE) == _levels(ENGLISH)


def test_readmes_have_the_same_figures_and_links() -> None:
    """Figures do not depend on the language."""
    assert _figures(CHINESE) == _figures(ENGLISH)
    assert _links(CHINESE) == _links(ENGLISH)


def test_readme_links_lead_somewhere() -> None:
    """Every file that is named is there."""
    assert [target for target in _links(ENGLISH) if not (ROOT / target).exists()] == []
