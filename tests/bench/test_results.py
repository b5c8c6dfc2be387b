# SPDX-License-Identifier: Apache-2.0
"""Result files: what is written is read, bad files are one line, reports and comparisons are made of them."""

import gzip
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import cli
from bench.machine.client import QUANTILES, Sample
from bench.results.results import Recorder, load, summarize
from bench.workloads.model import Figure
from unionfs.errors import UserError

FIGURES = (
    Figure("stat", "stat <cold> & warm", state="warm", suite="metadata"),
    Figure("speed", "read", "B/s", True, suite="data"),
    Figure("start-exec-plain", "start to exec", state="on a plain directory", suite="containers"),
    *(
        Figure(f"layers-{n}", f"{n} layers", curve="stat over layers", x=n, suite="scaling")
        for n in (1, 2, 4)
    ),
)
ENVIRONMENT = {
    "date": "2026-01-02T03:04:05+00:00", "kernel": "6.18", "cpus": 2, "virtual": "machine", "backing": "ext4",
    "load": [0.5, 0.4, 0.3], "busy": "", "fuse": {"max": "1"},
}  # fmt: skip


def write_results(path: Path, factor: float = 1.0, version: int = 1, *, wild: bool = False) -> Path:
    """Write a result file of five rounds in which the target `ours` takes `2 × factor` times as long as overlay2.

    A `wild` one takes 1, 3, 5, 7 and 9 times as long.
    """
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
                    noise *= (0.5 + number) if wild and label == "ours" else 1
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [*lines[:5], lines[5][:30], *lines[6:]], "line 6 is damaged"),
        (
            lambda lines: [lines[0].replace('"environment"', '"other"'), *lines[1:]],
            "damaged: a record lacks 'environment'",
        ),
        (lambda lines: [lines[0][:200]], "not a result file"),
        (lambda lines: [*lines, '{"record": "sample"}'], "damaged: a record lacks 'figure'"),
        (lambda lines: ["[" * 100_000], "not a result file"),
    ],
    ids=["middle", "header", "first-line", "field", "deep"],
)
def test_load_damaged_file_is_one_line(
    tmp_path: Path, change: Callable[[list[str]], list[str]], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that lost something in the middle is refused rather than half read; no traceback."""
    path = write_results(tmp_path / "r.jsonl")
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")
    assert cli.main(["show", str(path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"unionbench: {path}: ") and message in said and said.count("\n") == 1


def test_show_of_planted_texts_controls_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Result files are handed around: names in them reach the terminal escaped, and end no line of the file."""
    path = write_results(tmp_path / "r.jsonl")
    odd = "gone\x1b[31m\x9b31m\u2028\u202e"
    text = path.read_text()
    for planted in (odd, json.dumps(odd)[1:-1]):
        raw = planted.replace("\x1b", "\\u001b") if planted == odd else planted
        path.write_text(text.replace('"gone"', f'"{raw}"'))
        assert cli.main(["show", str(path)]) == 0
        shown = capsys.readouterr().out
        assert "gone" in shown and all(c.isprintable() or c == "\n" for c in shown)


def test_load_endless_file_is_refused() -> None:
    """A device has no end."""
    with pytest.raises(UserError, match="/dev/zero: not a result file"):
        load(Path("/dev/zero"))


def test_load_packed_file_is_read_and_half_of_one_is_refused(tmp_path: Path) -> None:
    """gzip is unpacked on the way; a torn one is damaged."""
    plain = write_results(tmp_path / "r.jsonl")
    packed = tmp_path / "r.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert load(packed).samples == load(plain).samples
    packed.write_bytes(packed.read_bytes()[:100])
    with pytest.raises(UserError, match="damaged"):
        load(packed)


@pytest.mark.parametrize("ending", [".html", ".md", ".png"])
def test_report_unwritable_output_is_one_line(
    tmp_path: Path, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where nothing can be written, that is said."""
    results = str(write_results(tmp_path / "r.jsonl"))
    assert cli.main(["report", results, "-o", f"/nonexistent/r{ending}"]) == 1
    assert capsys.readouterr().err == f"unionbench: /nonexistent/r{ending}: No such file or directory\n"


def test_report_that_fails_leaves_the_former_one(tmp_path: Path) -> None:
    """Where the disk is full, or a file may not become so long."""
    results, output = write_results(tmp_path / "r.jsonl"), tmp_path / "r.md"
    output.write_text("before")
    report = shlex.join([sys.executable, "-m", "bench.cli", "report", str(results), "-o", str(output)])
    done = subprocess.run(["sh", "-c", f"ulimit -f 0; {report}"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, f"unionbench: {output}: File too large\n")
    assert output.read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.jsonl", "r.md"]


def test_report_of_one_suite_has_its_figures_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--suite narrows a report; a suite that is not there is named with those that are."""
    results, output = str(write_results(tmp_path / "r.jsonl")), tmp_path / "r.md"
    assert cli.main(["report", results, "-o", str(output), "--suite", "scaling"]) == 0
    assert "4 layers" in output.read_text() and "stat <cold>" not in output.read_text()
    assert cli.main(["report", results, "-o", str(output), "--suite", "network"]) == 2
    assert (
        "suite 'network' is not in these results; there: metadata, data, containers, scaling"
        in capsys.readouterr().err
    )


def test_show_json_gives_values_ratios_and_problems(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Programs get the numbers of the table, with their intervals and what they are relative to."""
    assert cli.main(["show", "--json", str(write_results(tmp_path / "r.jsonl"))]) == 0
    found = {(cell["figure"], cell["target"]): cell for cell in json.loads(capsys.readouterr().out)}
    ours = found["stat", "ours"]
    assert ours["slowness"]["median"] == pytest.approx(2.0) and ours["baseline"] == "overlay2"
    assert ours["value"]["rounds"] == 5 and ours["value"]["low"] < ours["value"]["high"]
    assert found["stat", "absent"]["problem"] == "died" and found["stat", "absent"]["value"] is None


def test_unstable_figure_is_reported_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A spread too large is an interval with a mark, in every form, and never a number."""
    path = write_results(tmp_path / "r.jsonl", wild=True)
    assert cli.main(["show", str(path)]) == 0
    assert "×1.00–9.00?" in capsys.readouterr().out
    assert cli.main(["show", "--json", str(path)]) == 0
    cell = next(
        c for c in json.loads(capsys.readouterr().out) if (c["figure"], c["target"]) == ("stat", "ours")
    )
    assert cell["slowness"]["median"] is None and not cell["slowness"]["stable"]
    assert cli.main(["report", str(path), "-o", str(tmp_path / "r.html")]) == 0
    assert "×1.00–<wbr>9.00?" in (tmp_path / "r.html").read_text()


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
    assert "container start-up, on a plain directory" in page
    assert ">1.00 s<" in page  # numbers that are written keep their digits
    assert not re.search(r'(src|href)="(?!#)|@import|url\((?!#)|<script', page)
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
    assert "confidence over 99.9 %" in shown
    assert cli.main(["compare", old, old]) == 0
    assert cli.main(["compare", new, old]) == 0
    assert cli.main(["compare", "--absolute", old, new]) == 3
    assert cli.main(["compare", "--threshold", "25", old, new]) == 0


def test_compare_json_is_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same findings as one JSON object, with the same status."""
    old = str(write_results(tmp_path / "old.jsonl"))
    new = str(write_results(tmp_path / "new.jsonl", factor=1.2))
    assert cli.main(["compare", "--json", old, new]) == 3
    found = json.loads(capsys.readouterr().out)["figures"]
    assert {line["figure"] for line in found if line["verdict"] == "slower"} == {f.name for f in FIGURES}
    assert found[0]["factor"] == pytest.approx(1.2) and found[0]["confidence"] > 0.99


def test_compare_new_failure_is_a_regression(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What had a value and fails now is named, with status 3."""
    old = write_results(tmp_path / "old.jsonl")
    lines = old.read_text().splitlines()
    kept = [line for line in lines if not ('"figure": "stat"' in line and '"target": "ours"' in line)]
    failure = {"record": "failure", "round": 0, "workload": "w", "target": "ours", "kind": "wrong", "message": "bad",
               "figures": ["stat"]}  # fmt: skip
    new = tmp_path / "new.jsonl"
    new.write_text("\n".join([*kept, json.dumps(failure)]) + "\n")
    assert cli.main(["compare", str(old), str(new)]) == 3
    assert "fails: stat on ours: wrong result" in capsys.readouterr().out


def test_compare_nothing_in_common_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files without a common figure are no success."""
    old = write_results(tmp_path / "old.jsonl")
    other = tmp_path / "other.jsonl"
    other.write_text(old.read_text().replace('"ours"', '"theirs"'))
    assert cli.main(["compare", str(old), str(other)]) == 1
    assert capsys.readouterr().err.startswith("unionbench: the files have no figure in common; ")


def test_show_prints_every_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table of a stored run is printed again."""
    assert cli.main(["show", str(write_results(tmp_path / "r.jsonl"))]) == 0
    shown = capsys.readouterr().out
    assert "×2.00" in shown and "server died" in shown
