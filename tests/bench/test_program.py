# SPDX-License-Identifier: Apache-2.0
"""The program as people run it: bad input is one line, a run leaves nothing behind, a server's death is recorded."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import cli
from bench.results.results import load, summarize

CAN_MOUNT = os.geteuid() == 0 and Path("/dev/fuse").exists()
needs_root = pytest.mark.skipif(not CAN_MOUNT, reason="mounting needs root and /dev/fuse")


def command(*words: str | Path) -> list[str]:
    """Return the command line of unionbench."""
    return [sys.executable, "-m", "bench.cli", *map(str, words)]


def bench(*words: str | Path, limit: float = 110) -> subprocess.CompletedProcess[str]:
    """Run unionbench to its end."""
    return subprocess.run(command(*words), capture_output=True, text=True, timeout=limit)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--suite", "nonsense"], "unknown suite 'nonsense'; known: quick,"),
        (["run", "--suite", "cost/nothing"], "unknown workload 'cost/nothing'; known: cost,"),
        (["quick", "--targets", "zfs"], "unknown target 'zfs'; known: native,"),
        (["quick", "--targets", "native,native"], "target native is given twice"),
        (["quick", "--targets", "native", "--slow", "overlay2=20"], "--slow overlay2: no such target"),
        (["quick", "--targets", "native", "--slow", "native=much"], "--slow native=much: not TARGET=PERCENT"),
        (
            ["quick", "--targets", "native", "-o", "/nonexistent/r.jsonl"],
            "/nonexistent/r.jsonl: No such file",
        ),
        (["quick", "--targets", "native", "--slow", "native=-5"], "--slow native=-5: not TARGET=PERCENT"),
        (
            ["quick", "--targets", "native", "--directory", "/nonexistent"],
            "/nonexistent: No such file",
        ),
        (["report", "/nonexistent"], "/nonexistent: No such file"),
        (["show", "/proc/self"], "/proc/self: Is a directory"),
        (["compare", "/nonexistent", "/nonexistent"], "/nonexistent: No such file"),
    ],
)
def test_bad_input_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line that names what is wrong, a status that is not 0, and nothing measured."""
    if words[0] == "quick" and shutil.which("fio") is None:
        pytest.skip("fio is not installed")
    assert cli.main(words) in (1, 2)
    said = capsys.readouterr().err
    assert said.startswith(f"unionbench: {message}") and said.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bogus"], "argument COMMAND: invalid choice: 'bogus'"),
        (["run"], "the following arguments are required: --suite"),
        (["quick", "--rounds", "0"], "argument --rounds: '0' is not a number above 0"),
        (["quick", "--rounds", "²"], "argument --rounds: '²' is not a number above 0"),
        (["quick", "--rounds", "1000000000"], "argument --rounds: 1000000000 is more than 1000"),
        (["quick", "--rounds", "5000"], "argument --rounds: 5000 is more than 1000"),
        (["compare", "--threshold", "-1", "a", "b"], "argument --threshold: '-1' is not a percentage"),
    ],
)
def test_wrong_usage_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong words on the command line end with status 2 and one line that names the help."""
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    said = capsys.readouterr().err
    assert caught.value.code == 2 and said.startswith(f"unionbench: {message}") and said.count("\n") == 1
    assert " --help\n" in said


def test_missing_program_names_the_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without fio the line says how to get it."""
    monkeypatch.setenv("PATH", "/nonexistent")
    assert cli.main(["run", "--suite", "classic", "--targets", "native"]) == 2
    assert capsys.readouterr().err == "unionbench: classic-direct needs fio; apt-get install fio\n"


def test_missing_targets_are_named_with_their_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Peers that are absent are named, each with what brings it."""
    monkeypatch.setenv("PATH", "/nonexistent")
    assert cli.main(["run", "--suite", "cost/cost", "--targets", "fuse-overlayfs,mergerfs"]) == 1
    said = capsys.readouterr().err
    assert "fuse-overlayfs is not installed; apt-get install fuse-overlayfs" in said
    assert "mergerfs is not installed; apt-get install mergerfs" in said
    assert said.endswith("unionbench: none of the targets can be measured here; see: unionbench list\n")


def test_without_root_is_one_line(tmp_path: Path) -> None:
    """Who may not mount is told so before anything is written."""
    output = tmp_path / "r.jsonl"
    tmp_path.chmod(0o777)
    nobody = 65534 if os.geteuid() == 0 else os.geteuid()
    done = subprocess.run(
        command("run", "--suite", "cost", "--targets", "native", "-o", output, "--directory", tmp_path),
        capture_output=True, text=True, user=nobody, timeout=60,
    )  # fmt: skip
    if "No module named" in done.stderr or "Permission denied" in done.stderr:
        pytest.skip("the program is not readable for others")
    assert done.returncode == 2 and not output.exists()
    assert done.stderr.splitlines()[-1].startswith("unionbench: mounting needs root; run: sudo ")


@needs_root
def test_full_output_is_one_line(tmp_path: Path) -> None:
    """A result file that cannot grow ends the run with its name; nothing is left behind."""
    words = ("run", "--suite", "cost", "--targets", "native", "--rounds", "1", "-o", "/dev/full")
    done = bench(*words, "--directory", tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert (
        "unionbench: /dev/full: No space left on device; what was written until then is kept\n" in done.stderr
    )
    assert not leftovers(tmp_path)


@needs_root
def test_disk_too_small_is_said_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A plan that cannot fit is refused before anything is written."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], check=True)
    try:
        words = ["run", "--suite", "cost/cost", "--targets", "native", "--directory", str(tmp_path)]
        assert cli.main([*words, "-o", "/dev/null"]) == 1
        assert f"{tmp_path}: " in capsys.readouterr().err
        assert not list(tmp_path.iterdir())
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def leftovers(directory: Path) -> list[str]:
    """Return what a run left behind in its directory or in the mount table."""
    mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(directory) in line]
    return [*mounts, *(path.name for path in directory.iterdir() if path.suffix != ".jsonl")]


@needs_root
def test_run_measures_checks_and_leaves_nothing(tmp_path: Path) -> None:
    """A real run over overlayfs and our union: values and ratios for both, copy-up included, then a clean directory."""
    output = tmp_path / "r.jsonl"
    done = bench(
        "run", "--suite", "cost/cost,copyup/copy-up-64KiB", "--targets", "overlay2,unionfs", "--rounds", "1", "-o", output,
        "--directory", tmp_path, "--backing", "tmpfs",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = load(output)
    assert str(tmp_path) not in str(results.run) and "--backing tmpfs" in results.run["command"]
    assert not results.failures
    rows = {row[0].figure.name: row for row in summarize(results)}
    assert rows["server-cpu"][1].value is not None
    assert rows["copy-up-64KiB"][1].ratio is not None
    assert rows["mount-4"][1].value is not None
    assert results.end is not None and results.end["reason"] == "complete"
    assert not leftovers(tmp_path)


def start_and_wait_for_sample(directory: Path, *words: str) -> tuple[subprocess.Popen[bytes], Path]:
    """Start a long run as a terminal would, in a process group of its own; return it once it has measured something."""
    output = directory / "r.jsonl"
    options = ("run", "--suite", "cost/cost", "--targets", "native,unionfs", "--rounds", "500", "-o", output)
    process = subprocess.Popen(
        command(*options, "--directory", directory, *words),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (output.exists() and '"sample"' in output.read_text()):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    return process, output


@needs_root
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminate"])
def test_interrupt_keeps_what_is_done(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C, which reaches all processes, and SIGTERM, which reaches one: status 130, a readable file, nothing left."""
    process, output = start_and_wait_for_sample(tmp_path)
    send = os.killpg if number == signal.SIGINT else os.kill
    send(process.pid, number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and b"Traceback" not in said, said
    results = load(output)
    assert results.samples and results.end is not None and results.end["reason"] == "interrupted"
    assert not leftovers(tmp_path)


def loop_devices(directory: Path) -> list[str]:
    """Return the loop devices whose file is below `directory`."""
    found: list[str] = []
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            found += [str(path)] if path.read_text().startswith(str(directory)) else []
        except OSError:
            pass  # just freed
    return found


@needs_root
@pytest.mark.parametrize("backing", ["", "ext4"])
def test_kill_leaves_nothing(tmp_path: Path, backing: str) -> None:
    """After kill -9 the servers, mounts, loop devices and files go by themselves; the result file stays readable."""
    words = ["--backing", backing] if backing else []
    if backing and not os.access("/dev/loop-control", os.W_OK):
        pytest.skip("no loop devices here")
    process, output = start_and_wait_for_sample(tmp_path, *words)
    process.kill()
    process.communicate(timeout=60)
    deadline = time.monotonic() + 30
    while leftovers(tmp_path) or _servers(tmp_path) or loop_devices(tmp_path):
        assert time.monotonic() < deadline, (leftovers(tmp_path), _servers(tmp_path), loop_devices(tmp_path))
        time.sleep(0.05)
    results = load(output)
    assert results.samples and results.end is None


@needs_root
def test_files_of_a_killed_run_are_removed_by_the_next(tmp_path: Path) -> None:
    """What a run that was killed could not remove goes with the next one; other people's files stay."""
    old, other = tmp_path / "unionbench-run-old", tmp_path / "unionbench-results"
    for path in (old, other):
        path.mkdir()
        os.utime(path, (0, 0))
    words = (
        "run",
        "--suite",
        "cost/cost",
        "--targets",
        "native",
        "--rounds",
        "1",
        "-o",
        tmp_path / "r.jsonl",
    )
    assert bench(*words, "--directory", tmp_path).returncode == 0
    assert not old.exists() and other.exists()


@needs_root
def test_server_death_is_a_failure_of_that_target_only(tmp_path: Path) -> None:
    """A server that is killed in mid run is recorded; the other target goes on to the end."""
    output = tmp_path / "r.jsonl"
    words = ("run", "--suite", "cost/cost", "--targets", "native,unionfs", "--rounds", "3", "-o", output)
    process = subprocess.Popen(
        command(*words, "--directory", tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    killed = False
    while process.poll() is None:
        for pid in _servers(tmp_path):
            if not killed:
                os.kill(pid, signal.SIGKILL)
                killed = True
        time.sleep(0.005)
    assert process.communicate()[1] is not None
    results = load(output)
    assert killed and process.returncode == 0
    assert [f["kind"] for f in results.failures] == ["died"] and results.failures[0]["target"] == "unionfs"
    assert results.end is not None and results.end["reason"] == "complete"
    assert not leftovers(tmp_path)


def _servers(directory: Path) -> list[int]:
    """Return the processes that serve a union below `directory`."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"unionfs.cli.main" in words and any(os.fsencode(directory) in word for word in words):
            found.append(int(path.parent.name))
    return found
