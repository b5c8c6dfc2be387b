# SPDX-License-Identifier: Apache-2.0
"""The suites that start containers: runtimes side by side, what they leave behind, the classic bars."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import cli
from bench.machine import cgroups
from bench.results.results import Results, load, summarize

_GROUPED = [h.directory for h in cgroups.hierarchies() if os.access(h.directory, os.W_OK)]
needs_groups = pytest.mark.skipif(
    os.geteuid() != 0 or not _GROUPED, reason="containers need root and control groups that can be written"
)
_LOW_LEVEL = [name for name in ("bwrap", "crun", "runc") if shutil.which(name)]


def _command(tmp_path: Path, suites: str, targets: str) -> list[str]:
    words = ["run", "--suite", suites, "--targets", targets, "--rounds", "1", "--directory", str(tmp_path)]
    return [sys.executable, "-m", "bench.cli", *words, "-o", str(tmp_path / "r.jsonl")]


def _run(tmp_path: Path, suites: str, targets: str) -> Results:
    command = _command(tmp_path, suites, targets)
    before = _all_groups()
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert not _left(tmp_path)
    assert not {path for path in _all_groups() - before if path.name.startswith(("crun", "runc", "client"))}
    return load(tmp_path / "r.jsonl")


def _left(tmp_path: Path) -> list[str]:
    """Return what a run has left in its directory or in the table of mounts."""
    mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(tmp_path) in line]
    rooms = [path.name for path in tmp_path.iterdir() if path.suffix != ".jsonl"]
    return [*mounts, *rooms]


def _all_groups() -> set[Path]:
    return {path for directory in _GROUPED for path in directory.iterdir() if path.is_dir()}


def _groups(rooms: set[str]) -> list[str]:
    return [str(directory / room) for directory in _GROUPED for room in rooms if (directory / room).exists()]


def test_runtimes_that_are_missing_are_named_with_their_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each runtime that is not installed has its line, which says what brings it."""
    monkeypatch.setenv("PATH", "/nonexistent")
    assert cli.main(["run", "--suite", "containers", "--targets", "crun,bwrap,podman,docker"]) == 1
    said = capsys.readouterr().err
    for package in ("crun", "bubblewrap", "podman", "docker.io"):
        assert f"is not installed; apt-get install {package}\n" in said


def test_suite_on_targets_of_another_kind_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Filesystems start no containers: the suite that is left out is named, and nothing remains to be measured."""
    assert cli.main(["run", "--suite", "containers", "--targets", "native"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "unionbench: containers: left out, there is no runtime among the targets"
    assert said[1].startswith("unionbench: nothing to measure on these targets")


def test_filesystem_is_left_out_of_a_suite_for_runtimes(capsys: pytest.CaptureFixture[str]) -> None:
    """Targets of both kinds may be given at once: what is unknown is named with the names of both."""
    assert cli.main(["run", "--suite", "containers", "--targets", "native,lxc"]) == 2
    said = capsys.readouterr().err
    assert "unknown target 'lxc'" in said and "overlay2" in said and "podman" in said


@needs_groups
def test_start_is_measured_beside_runtimes_that_are_missing(tmp_path: Path) -> None:
    """Every runtime has either its times, the exec before the exit, or the reason why it has none."""
    results = _run(tmp_path, "containers/start-plain", "no-container,crun,unionrt")
    missing = {f["target"] for f in results.failures if f["kind"] == "missing"}
    assert results.targets == [n for n in ("no-container", "crun", "unionrt") if n not in missing]
    execution, end = summarize(results)
    for before, after in zip(execution, end, strict=True):
        assert before.value is not None and after.value is not None, results.failures
        assert 0 < before.value.median < 30 and 0 < after.value.median < 30
    if "crun" in results.targets:
        assert results.run["baseline"] == "crun"


@needs_groups
@pytest.mark.skipif(not _LOW_LEVEL, reason="no bwrap, crun or runc is installed")
def test_density_shares_the_image_and_grows_with_containers(tmp_path: Path) -> None:
    """100 containers on overlay2 take more memory and disk than one, but have one copy of the image's data cached."""
    results = _run(tmp_path, "containers/density", _LOW_LEVEL[0])
    assert not results.failures
    found = {row[0].figure.name: row[0].value for row in summarize(results)}
    values = {name: value.median for name, value in found.items() if value is not None}
    for what in ("processes", "charged", "disk"):
        assert 0 < values[f"{what}-1"] < values[f"{what}-10"] < values[f"{what}-100"]
    if values.get("cache-100"):
        assert 4e6 < values["cache-1"] <= values["cache-100"] < 40e6


@needs_groups
@pytest.mark.skipif(not _LOW_LEVEL, reason="no bwrap, crun or runc is installed")
def test_killed_run_leaves_no_process_and_the_next_one_removes_its_groups(tmp_path: Path) -> None:
    """SIGKILL ends the containers with the run; groups and files go with the next run, as nobody could remove them."""
    process = subprocess.Popen(
        _command(tmp_path, "containers/density", _LOW_LEVEL[-1]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not _processes(tmp_path):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    rooms = {path.name for path in tmp_path.glob("unionbench-run-*")}
    assert _groups(rooms)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    while _processes(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for room in rooms:
        with contextlib.suppress(FileNotFoundError):  # the run's cleaner was quicker
            os.utime(tmp_path / room, (0, 0))
    _run(tmp_path, "containers/start-plain", "no-container")
    assert not _groups(rooms)


def _processes(tmp_path: Path) -> list[int]:
    """Return the processes in a control group of a run in this directory."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/cgroup"):
        try:
            text = path.read_text()
        except OSError:
            continue
        if any(room.name in text for room in tmp_path.glob("unionbench-run-*")):
            found.append(int(path.parent.name))
    return found


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("fio") is None, reason="needs root and fio")
def test_classic_bars_are_relative_to_native_and_drawn(tmp_path: Path) -> None:
    """fio runs inside a container on each target; the report has the bars in a picture of their own."""
    results = _run(tmp_path, "classic/classic-cached", "native,overlay2")
    assert not results.failures
    rows = [row for row in summarize(results) if row[0].figure.suite == "classic"]
    assert len(rows) == 4
    for row in rows:
        assert row[0].value is not None and row[1].ratio is not None and row[1].baseline == "native"
    assert cli.main(["report", str(tmp_path / "r.jsonl"), "-o", str(tmp_path / "r.html")]) == 0
    assert "inside a container" in (tmp_path / "r.html").read_text()
