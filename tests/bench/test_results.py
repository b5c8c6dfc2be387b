# SPDX-License-Identifier: Apache-2.0
"""Result files: what is written is read, bad files are one line, reports and comparisons are made of them."""

import re
from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import cli
from bench.client import QUANTILES, Sample
from bench.results import Recorder, load, summarize
from bench.workloads.model import Figure
from unionfs.errors import UserError

FIGURES = (
    Figure("stat", "stat <cold> & warm", state="warm"),
    Figure("speed", "read", "B/s", True),
    *(Figure(f"layers-{n}", f"{n} layers", curve="layers", x=n) for n in (1, 2, 4)),
)
ENVIRONMENT = {
    "date": "2026-01-02T03:04:05+00:00", "kernel": "6.18", "cpus": 2, "virtual": "machine", "backing": "ext4",
    "load": [0.5, 0.4, 0.3], "busy": "", "fuse": {"max": "1"},
}  # fmt: skip


def write_results(path: Path, factor: float = 1.0, version: int = 1) -> Path:
    """Write a result file of five rounds in which the target `ours` takes `2 × factor` times as long as overlay2."""
    with path.open("w") as stream:
        recorder = Recorder(stream)
        targets = [
            {"label": label, "name": label, "title": label, "version": "1", "slowdown": 0.0}
            for label in ("overlay2", "ours", "absent")
        ]
        recorder.write(
            "run", format=version, command="unionbench", environment=ENVIRONMENT, rounds=5, pinned=False,
            baseline="overlay2", targets=targets, figures=[asdict(f) for f in FIGURES],
        )  # fmt: skip
        for number in range(5):
            for label, slowness in (("overlay2", 1.0), ("ours", 2.0 * factor)):
                place = {"round": number, "workload": "w", "target": label, "at": 0.0, "load": 1.0}
                for figure in FIGURES:
                    noise = 1 + number / 1000
                    value = 100 / slowness * noise if figure.higher_is_better else slowness * noise
                    recorder.sample(place, figure.name, Sample(value, 1, None, (1e-5,) * len(QUANTILES)))
        recorder.write(
            "failure", round=0, workload="w", target="absent", kind="died", message="gone", figures=["stat"]
        )
        recorder.write("end", reason="complete", seconds=1.0, load=[1.0, 1.0, 1.0])
    return path


def test_load_written_file_gives_ratios(tmp_path: Path) -> None:
    """Times and speeds both say: twice as slow; a failure stands where its value would."""
    rows = summarize(load(write_results(tmp_path / "r.jsonl")))
    assert len(rows) == len(FIGURES)
    for row in rows:
        assert row[1].ratio is not None and row[1].ratio.median == pytest.approx(2.0)
        assert row[0].ratio is None and row[2].value is None
    assert rows[0][2].problem == "died"


def test_load_torn_last_line_keeps_the_rest(tmp_path: Path) -> None:
    """A run killed while writing keeps what is whole, and has no end."""
    path = write_results(tmp_path / "r.jsonl")
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:10]) + "\n" + lines[10][:20])
    results = load(path)
    assert len(results.samples) == 9 and results.end is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a result file"),
        (b"hello\n", "not a result file"),
        (b"\xff\xfe\n", "not a text file"),
        (b'{"record": "run", "format": 99}\n', "result format 99, this program reads 1"),
        (None, "No such file"),
    ],
    ids=["empty", "text", "binary", "other-version", "absent"],
)
def test_load_bad_file_is_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    """Each wrong file has its own line that starts with its name."""
    path = tmp_path / "r.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load(path)
    assert caught.value.line().startswith(str(path))


def test_report_html_is_one_self_contained_page(tmp_path: Path) -> None:
    """The page needs no other file, its plots are inline and well-formed, and text from results is escaped."""
    output = tmp_path / "r.html"
    assert cli.main(["report", str(write_results(tmp_path / "r.jsonl")), "-o", str(output)]) == 0
    page = output.read_text()
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(pictures) >= 3  # ratios, a latency, a curve
    for picture in pictures:
        ElementTree.fromstring(picture)
    assert "stat &lt;cold&gt; &amp; warm" in page
    assert not re.search(r'(src|href)="(?!#)', page)
    assert "server died" in page


def test_report_markdown_and_picture(tmp_path: Path) -> None:
    """The ending chooses the form."""
    results = str(write_results(tmp_path / "r.jsonl"))
    assert cli.main(["report", results, "-o", str(tmp_path / "r.md")]) == 0
    assert "×2.00" in (tmp_path / "r.md").read_text()
    assert cli.main(["report", results, "-o", str(tmp_path / "r.png")]) == 0
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")


def test_report_other_ending_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be written is said in one line."""
    results = str(write_results(tmp_path / "r.jsonl"))
    assert cli.main(["report", results, "-o", str(tmp_path / "r.pdf")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_compare_slower_target_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A target that became 20 % slower is a regression with status 3; the same file twice is none."""
    old = str(write_results(tmp_path / "old.jsonl"))
    new = str(write_results(tmp_path / "new.jsonl", factor=1.2))
    assert cli.main(["compare", old, new]) == 3
    shown = capsys.readouterr().out
    assert "slower: stat on ours: ×1.20" in shown and "slower: speed on ours: ×1.20" in shown
    assert cli.main(["compare", old, old]) == 0
    assert cli.main(["compare", new, old]) == 0
    assert cli.main(["compare", "--absolute", old, new]) == 3


def test_show_prints_every_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table of a stored run is printed again."""
    assert cli.main(["show", str(write_results(tmp_path / "r.jsonl"))]) == 0
    shown = capsys.readouterr().out
    assert "×2.00" in shown and "server died" in shown
