# SPDX-License-Identifier: Apache-2.0
"""Documents: decisions have a date, a status and a line in the index; what is named is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DECISIONS = ROOT / "docs/decisions"
DOCUMENTS = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")})
SOURCES = [p for top in ("unionfs", "runtime", "bench", "tests") for p in sorted((ROOT / top).rglob("*.py"))]


def _index() -> dict[str, tuple[str, str, str]]:
    """Return (date, title, status) of each file that the index lists, with its one line not empty."""
    rows = re.findall(
        r"^\| (\d{4}-\d\d-\d\d) \| \[(.+?)\]\(([\w-]+\.md)\) \| (.+?) \| .+ \|$",
        (DECISIONS / "README.md").read_text(),
        re.MULTILINE,
    )
    assert len({name for _, _, name, _ in rows}) == len(rows)
    return {name: (date, title, status) for date, title, name, status in rows}


def test_decisions_are_all_in_the_index() -> None:
    """One row for each file."""
    assert _index().keys() == {path.name for path in DECISIONS.glob("*.md")} - {"README.md"}


@pytest.mark.parametrize("path", sorted(DECISIONS.glob("[!R]*.md")), ids=lambda path: path.stem)
def test_decision_has_the_date_and_status_of_its_row(path: Path) -> None:
    """The title, then `Date: … . Status: … .`; a status is "in force", or names what took the place."""
    told = re.match(r"<!-- .* -->\n# (.+)\n\nDate: (\S+)\. Status: (.+)\.\n", path.read_text())
    assert told, path
    title, date, status = told.groups()
    assert _index()[path.name] == (date, title, status)
    assert re.fullmatch(
        r"in force|(in part )?replaced by \[([\w-]+\.md)\]\(\2\)", status.replace("in part ", "")
    )


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_document_names_files_that_are_there(path: Path) -> None:
    """Every link leads somewhere, and every `module.py` is one of ours (but in the changelog, which tells of former ones)."""
    text = path.read_text()
    links = re.findall(r"\]\((?!https?:|#)([^)\s#]+)", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    assert [link for link in links if not (path.parent / link).exists()] == []
    if path.name != "changelog.md":
        ours = [f"/{source.relative_to(ROOT)}" for source in SOURCES]
        named = re.findall(r"`([a-z_][a-z\d_./]*\.py)`", text)
        assert [name for name in named if not any(one.endswith(f"/{name}") for one in ours)] == []


def test_tree_of_the_oci_runtime_is_complete() -> None:
    """Every module and package of it is in the tree of architecture.md."""
    _, _, section = (ROOT / "docs/architecture.md").read_text().partition("\n## unionrt\n")
    tree = section.split("```")[1]
    parts = [path for path in (ROOT / "runtime/oci").iterdir() if path.name[0] != "_"]
    names = [path.name if path.suffix == ".py" else f"{path.name}/" for path in parts]
    assert [name for name in names if not re.search(rf"(?<![\w/]){re.escape(name)}", tree)] == []


def test_cited_sections_of_aufs_rules_are_in_the_tree() -> None:
    """Who cites one cites docs/aufs.md, and a section that it has."""
    rules = (ROOT / "docs/aufs.md").read_text()
    for path in SOURCES:
        text = path.read_text()
        cited = re.findall(r"docs/aufs\.md ((?:§[\d.]*\d,? ?)+)", text)
        assert text.count("§") == sum(words.count("§") for words in cited) or path == Path(__file__), path
        for section in re.findall(r"§([\d.]*\d)", "".join(cited)):
            assert re.search(rf"^\| {section} \||^## {section}\. ", rules, re.MULTILINE), (
                f"{path}: §{section}"
            )
