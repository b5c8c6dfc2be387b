# SPDX-License-Identifier: Apache-2.0
"""Publishing a result file in the documentation is one command, and the documentation says what the data say."""

import gzip
import re
from pathlib import Path

import pytest

from bench.report.publish import fill, publish
from bench.results.results import load
from tests.bench.test_results import write_results
from unionfs.errors import UserError

DOCS = Path(__file__).parents[2] / "docs"


def _docs(path: Path) -> Path:
    path.mkdir()
    marks = "\n".join(
        f"<!-- {name}: {word} -->" for name in ("selftest", "results") for word in ("begin", "end")
    )
    (path / "benchmarks.md").write_text(f"before\n{marks}\nafter\n")
    return path


def test_publish_writes_tables_page_pictures_and_data(tmp_path: Path) -> None:
    """Between the markers stands what the results say, outside nothing changes, and all that is linked is there."""
    docs, results = _docs(tmp_path / "docs"), write_results(tmp_path / "r.jsonl")
    publish(results, None, docs)
    text = (docs / "benchmarks.md").read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "×2.00" in text
    for name in (
        "page.html",
        "results.jsonl.gz",
        "bars-start-plain.png",
        "ratios-figures.png",
        "curves-figures.png",
    ):
        assert f"benchmarks/{name}" in text and (docs / "benchmarks" / name).stat().st_size > 500
    assert gzip.decompress((docs / "benchmarks/results.jsonl.gz").read_bytes()) == results.read_bytes()


def test_publish_twice_gives_the_same(tmp_path: Path) -> None:
    """Nothing depends on the time or the number of times; the self-test's data stay when only results are given."""
    docs, results = _docs(tmp_path / "docs"), write_results(tmp_path / "r.jsonl")
    publish(results, results, docs)
    first = {
        path.name: path.read_bytes() for path in [docs / "benchmarks.md", *(docs / "benchmarks").iterdir()]
    }
    publish(docs / "benchmarks/results.jsonl.gz", None, docs)
    assert first == {
        p.name: p.read_bytes() for p in [docs / "benchmarks.md", *(docs / "benchmarks").iterdir()]
    }


def test_publish_without_marker_is_one_line(tmp_path: Path) -> None:
    """A document without its markers is named."""
    (tmp_path / "benchmarks.md").write_text("nothing")
    with pytest.raises(UserError, match="the marker <!-- results: begin -->"):
        publish(write_results(tmp_path / "r.jsonl"), None, tmp_path)


def test_documentation_is_that_of_its_data() -> None:
    """The tables in docs/benchmarks.md are those of the data beside them: nobody has edited a figure."""
    document, folder = DOCS / "benchmarks.md", DOCS / "benchmarks"
    text = document.read_text()
    filled = fill(text, load(folder / "results.jsonl.gz"), load(folder / "selftest.jsonl.gz"), document)
    assert filled == text, (
        "run: make bench-docs RESULTS=docs/benchmarks/results.jsonl.gz SELFTEST=…/selftest.jsonl.gz"
    )
    for name in re.findall(r"\(benchmarks/([^)]*)\)", text):
        assert (folder / name).exists(), name
