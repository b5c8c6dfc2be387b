# SPDX-License-Identifier: Apache-2.0
"""Real work and concurrency on a plain directory: right results pass, wrong ones fail, missing programs are named."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.machine import programs
from bench.machine.client import Figures, MeasurementError, Place
from bench.machine.layers import Layers, build_plain
from bench.results.results import load
from bench.targets import TARGETS
from bench.workloads import check_programs, concurrency, latency, realwork
from bench.workloads.model import Figure, Workload
from bench.workloads.realwork.files import expect_files, prepared
from unionfs.errors import UserError

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="caches are dropped by root")
WORKLOADS = [*realwork.WORKLOADS, *concurrency.WORKLOADS]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Yield an empty plain directory as a target; pytest would keep what becomes 100 MB."""
    for name in ("mount", "scratch"):
        (tmp_path / name).mkdir()
    yield Place(tmp_path / "mount", tmp_path / "mount", tmp_path / "scratch")
    for name in ("mount", "scratch"):
        shutil.rmtree(tmp_path / name)


def run(workload: Workload, place: Place) -> Figures:
    """Build the layers of a workload as one tree and run it there."""
    lacking = programs.missing(workload.programs)
    if lacking:
        pytest.skip(f"{lacking[0]} is not installed")
    if workload.build:
        build_plain(place.mount, [workload.build])
    if workload.prepare:
        workload.prepare(place.scratch)
    return workload.run(place)


@needs_root
@pytest.mark.slow
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_workload_on_plain_directory_gives_its_figures(workload: Workload, place: Place) -> None:
    """Each workload accepts a plain directory's results, and yields the figures that it announces."""
    figures = run(workload, place)
    assert list(figures) == [figure.name for figure in workload.figures]
    assert all(sample.value > 0 for sample in figures.values())


def test_untar_that_does_not_reach_the_branch_is_wrong(place: Place, tmp_path: Path) -> None:
    """Files that are seen but are not in the writable branch are a wrong result, however fast."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with pytest.raises(MeasurementError, match="wrong content") as caught:
        run(realwork.QUICK_TREE, Place(place.mount, elsewhere, place.scratch))
    assert caught.value.kind == "wrong"


def test_program_that_fails_is_named_with_its_words(place: Place) -> None:
    """A disk that is full, or a bug: the program's own words, in one line."""
    (place.mount / "source").write_text("in the way")
    with pytest.raises(MeasurementError, match=r"tar failed: .*source.*Not a directory") as caught:
        run(realwork.QUICK_TREE, place)
    assert caught.value.kind == "failed"


def _damage_nothing(path: Path) -> None:
    pass


def _truncate(path: Path) -> None:
    path.write_bytes(b"")


def _change(path: Path) -> None:
    path.write_bytes(b"B" * path.stat().st_size)


@pytest.mark.parametrize("damage", [_damage_nothing, _truncate, _change, Path.unlink])
def test_expect_files_finds_every_damage(damage: Callable[[Path], None], place: Place) -> None:
    """A file that is short, differs or is absent is found, wherever it is."""
    files = [(f"d{number % 3}/f{number}", b"a" * number) for number in range(1, 50)]
    layers = Layers((place.mount / "new",))
    for name, data in files:
        layers.write(name, data)
    assert expect_files(place, "new", files) == len(files)
    damage(place.mount / "new" / files[36][0])
    if damage is _damage_nothing:
        assert expect_files(place, "new", files) == len(files)
    else:
        with pytest.raises(MeasurementError):
            expect_files(place, "new", files)


def test_prepared_is_made_once_and_an_unfinished_one_again(tmp_path: Path) -> None:
    """What an interrupted run left half made is not used."""
    (tmp_path / "cache.new").mkdir()
    (tmp_path / "cache.new" / "half").touch()
    made: list[Path] = []

    def make(directory: Path) -> None:
        made.append(directory)
        (directory / "whole").touch()

    for _ in range(2):
        assert os.listdir(prepared(tmp_path, "cache", make)) == ["whole"]
    assert len(made) == 1


def test_client_that_reads_a_wrong_content_fails_the_others(place: Place) -> None:
    """One of several clients that gets wrong data is a wrong result of the whole."""
    workload = next(w for w in concurrency.WORKLOADS if w.name == "clients-2")
    assert workload.build is not None
    build_plain(place.mount, [workload.build])
    for path in place.mount.glob("mix/d*/*"):
        _change(path)
    with pytest.raises(MeasurementError, match=r"a client failed: .* has a wrong content") as caught:
        workload.run(place)
    assert caught.value.kind == "wrong"


def test_percentiles_are_values_that_occurred() -> None:
    """Of 1 to 100 the percentiles are known."""
    assert latency.percentiles([float(n) for n in range(100, 0, -1)]) == (50.0, 95.0, 99.0, 100.0)
    assert latency.percentiles([7.0]) == (7.0, 7.0, 7.0, 7.0)


def _workload(program: str) -> Workload:
    return Workload("w", "s", (Figure("f", "figure"),), lambda _: {}, programs=((program, "package"),))


def test_check_programs_stops_only_when_nothing_can_run() -> None:
    """One missing program of several leaves the rest; all missing ends before it begins, with the package's name."""
    check_programs([_workload("nonexistent-program"), _workload("sh")])
    with pytest.raises(UserError, match="w needs nonexistent-program"):
        check_programs([_workload("nonexistent-program")])


def test_missing_program_leaves_out_its_workload_only(tmp_path: Path) -> None:
    """Without tar the clients are measured; what needs tar says which package brings it."""
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        pytest.skip("mounting needs root and /dev/fuse")
    output = tmp_path / "r.jsonl"
    words = ["-m", "bench.cli", "run", "--suite", "concurrency", "--targets", "native", "--rounds", "1"]
    done = subprocess.run(
        [sys.executable, *words, "-o", str(output), "--directory", str(tmp_path)],
        capture_output=True, text=True, timeout=100, env=os.environ | {"PATH": "/nonexistent"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = load(output)
    assert {sample["workload"] for sample in results.samples} >= {"clients-1", "clients-16"}
    assert [(f["kind"], f["message"]) for f in results.failures] == [
        ("unsupported", "tar is not installed; apt-get install tar")
    ]


def test_every_union_runs_all_real_work_but_where_it_cannot() -> None:
    """Only mergerfs, which neither copies up nor hides, lacks what some real work needs."""
    lacking = {
        name
        for name, target in TARGETS.items()
        for w in realwork.WORKLOADS
        if w.name == "apt" and w.needs - target.features
    }
    assert {name.removesuffix("-rootless") for name in lacking} == {"mergerfs"}
