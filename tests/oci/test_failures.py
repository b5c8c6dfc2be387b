# SPDX-License-Identifier: Apache-2.0
"""A creation that fails at any step leaves nothing, and says in one line which step, where, and what to do."""

import json
import math
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.oci import PROGRAM, Bundle, wait_for_end, wait_until
from tests.support.oddmounts import odd_mounts


def _note(bundle: Bundle, text: str, *, status: int = 0, **rest: Any) -> dict[str, Any]:
    """Return a hook that notes `text` and the state it was given in the file `notes` of the bundle, and exits."""
    script = f'printf "%s " {text} >> {bundle.directory}/notes; cat >> {bundle.directory}/notes; '
    script += f"echo >> {bundle.directory}/notes; echo complaint >&2; exit {status}"
    return {"path": "/bin/sh", "args": ["sh", "-c", script], **rest}


def _notes(bundle: Bundle) -> list[tuple[str, dict[str, Any]]]:
    path = bundle.directory / "notes"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(line.split(" ", 1)[0], json.loads(line.split(" ", 1)[1])) for line in lines]


def test_hooks_run_in_order_with_the_state(bundle: Bundle) -> None:
    """Each hook gets the container's state; poststop comes after the container is gone."""
    kinds = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
    bundle.config["hooks"] = {kind: [_note(bundle, kind)] for kind in kinds}
    bundle.mount("/bundle", type="bind", source=str(bundle.directory), options=["bind"])
    inside = 'printf "startContainer " >> /bundle/notes; cat >> /bundle/notes; echo >> /bundle/notes'
    bundle.config["hooks"]["startContainer"] = [{"path": "/bin/sh", "args": ["sh", "-c", inside]}]
    bundle.shell("sleep 0.3")
    bundle.run()
    notes = _notes(bundle)
    order = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
    assert [name for name, _ in notes] == order
    for name, state in notes:
        assert state["id"] == bundle.id
        assert state["bundle"] == str(bundle.directory)
        assert (state["pid"] > 0) == (name != "poststop")


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer"])
def test_failing_create_hook_destroys_the_container(bundle: Bundle, kind: str) -> None:
    """The message names the hook and holds what it said; poststop still runs."""
    bundle.config["hooks"] = {kind: [_note(bundle, kind, status=3)], "poststop": [_note(bundle, "poststop")]}
    result = bundle.create(check=False)
    assert result.returncode == 1
    assert kind in result.stderr
    assert "complaint" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert [name for name, _ in _notes(bundle)] == [kind, "poststop"]
    assert bundle.leftovers() == []


def test_failing_start_hook_is_told_by_start(bundle: Bundle) -> None:
    """startContainer runs in the container; `start` says what went wrong and the program does not run."""
    bundle.config["hooks"] = {
        "startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "echo alas; exit 9"]}]
    }
    bundle.shell("echo program")
    bundle.create()
    result = bundle.start(check=False)
    assert result.returncode == 1
    assert "startContainer" in result.stderr
    assert "alas" in result.stderr
    bundle.wait_for_status("stopped")
    assert "program" not in bundle.output()


def test_start_hook_that_cannot_even_be_forked_is_told_by_start(bundle: Bundle) -> None:
    """Not only what a hook does may fail, but also what it takes to run one."""
    bundle.linux["resources"]["pids"] = {"limit": 1}
    bundle.config["hooks"] = {"startContainer": [{"path": "/bin/true"}]}
    bundle.create()
    result = bundle.start(check=False)
    assert result.returncode == 1
    assert "temporarily unavailable" in result.stderr


def test_failing_poststart_hook_ends_the_container(bundle: Bundle) -> None:
    """A container whose poststart hook fails does not go on."""
    bundle.config["hooks"] = {"poststart": [_note(bundle, "poststart", status=1)]}
    bundle.process["args"] = ["sleep", "1000"]
    bundle.create()
    result = bundle.start(check=False)
    assert result.returncode == 1
    assert "poststart" in result.stderr
    assert bundle.leftovers() == []
    result = bundle.run(check=False)
    assert result.returncode == 1
    assert "poststart" in result.stderr
    assert bundle.leftovers() == []


def test_failing_poststop_hook_is_a_warning(bundle: Bundle) -> None:
    """The container is gone all the same, and the next hook runs."""
    bundle.config["hooks"] = {"poststop": [_note(bundle, "one", status=1), _note(bundle, "two")]}
    result = bundle.run(args=["true"])
    assert "warning" in result.stderr
    assert [name for name, _ in _notes(bundle)] == ["one", "two"]
    assert bundle.leftovers() == []


def test_hook_that_takes_too_long_fails(bundle: Bundle) -> None:
    """`timeout` is in seconds; the hook does not outlive it."""
    bundle.config["hooks"] = {"prestart": [{"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}]}
    result = bundle.create(check=False)
    assert result.returncode == 1
    assert "timeout" in result.stderr
    assert bundle.leftovers() == []


BROKEN: dict[str, tuple[str, Any, str]] = {
    "no process": ("process", None, "process"),
    "no arguments": ("process.args", [], "process.args"),
    "relative cwd": ("process.cwd", "tmp", "process.cwd"),
    "no root": ("root", None, "root.path"),
    "root that is not there": ("root.path", "nowhere", "nowhere"),
    "old version": ("ociVersion", "0.9.0", "0.9.0"),
    "arguments of a wrong type": ("process.args", "sh", "process.args is not a list"),
    "argument of a wrong type": ("process.args", ["sh", 1], "process.args[1] is not a string"),
    "flag of a wrong type": ("process.terminal", "yes", "process.terminal"),
    "user of a wrong type": ("process.user.uid", "root", "process.user.uid"),
    "infinite number": ("process.user.uid", math.inf, "process.user.uid is not an integer"),
    "text with a NUL": (
        "mounts",
        [{"destination": "/proc\0/x", "type": "tmpfs"}],  # not /proc, says a check; /proc, says the kernel
        "mounts[0].destination has a NUL",
    ),
    "text that is none": ("process.cwd", "/\ud800", "process.cwd is not Unicode text"),
    "device of an unknown type": (
        "linux.devices",
        [{"type": "x", "path": "/dev/x"}],
        "linux.devices[0].type",
    ),
    "device without a path": ("linux.devices", [{"type": "p"}], "linux.devices[0].path"),
    "device with a huge number": (
        "linux.devices",
        [{"type": "c", "path": "/dev/x", "major": 1 << 40, "minor": 1}],
        "linux.devices[0].major",
    ),
    "unknown namespace": ("linux.namespaces", [{"type": "mnt"}], "mnt"),
    "namespace twice": ("linux.namespaces", [{"type": "pid"}, {"type": "pid"}], "twice"),
    "unknown propagation": ("linux.rootfsPropagation", "sideways", "sideways"),
    "relative masked path": ("linux.maskedPaths", ["proc/kcore"], "proc/kcore"),
    "offsets without time namespace": ("linux.timeOffsets", {"boottime": {"secs": 1}}, "time namespace"),
    "mappings without user namespace": (
        "linux.uidMappings",
        [{"containerID": 0, "hostID": 0, "size": 1}],
        "user namespace",
    ),
    "resctrl": ("linux.intelRdt", {"closID": "x"}, "linux.intelRdt is not supported"),
    "mount source that is not there": (
        "mounts",
        [{"destination": "/x", "type": "bind", "source": "/no/where", "options": ["bind"]}],
        "/no/where",
    ),
    "mount of an unknown type": ("mounts", [{"destination": "/x", "type": "nofs", "source": "x"}], "nofs"),
    "joined namespace that is not there": (
        "linux.namespaces",
        [{"type": "network", "path": "/no/where"}, {"type": "mount"}, {"type": "uts"}],
        "/no/where",
    ),
    "cwd that is a file": ("process.cwd", "/bin/busybox", "/bin/busybox"),
    "program that is a directory": ("process.args", ["/bin"], "/bin"),
    "program that is not there": ("process.args", ["/bin/nothing"], "no such file or directory"),
    "program that is not executable": ("process.args", ["/etc/passwd"], "permission denied"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_configuration_fails_in_one_line(bundle: Bundle, what: str) -> None:
    """The line names the key or the path; no container, cgroup or mount stays."""
    key, value, words = BROKEN[what]
    place: Any = bundle.config
    *path, last = key.split(".")
    for name in path:
        place = place[name]
    place[last] = value
    log = bundle.directory / "log"
    bundle.options = ["--log", str(log), "--log-format", "json"]
    result = bundle.create(check=False)
    assert result.returncode != 0
    assert len(result.stderr.splitlines()) == 1
    assert words in result.stderr
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert words in entries[-1]["msg"]
    assert entries[-1]["level"] == "error"
    assert not list(bundle.state.glob("[!.]*"))
    assert bundle.leftovers() == []


def test_negative_count_of_descriptors_is_refused(bundle: Bundle) -> None:
    """It would mean nothing."""
    result = bundle.create("--preserve-fds", "-1", check=False)
    assert (result.returncode, result.stderr) == (1, "unionrt: --preserve-fds: -1 is less than 0\n")


def test_full_log_does_not_silence_an_error(bundle: Bundle) -> None:
    """What cannot be written to the log is still said."""
    bundle.options = ["--log", "/dev/full"]
    result = bundle.call("state", "nobody", check=False)
    assert result.returncode == 1
    assert "nobody" in result.stderr and len(result.stderr.splitlines()) == 1


def test_odd_mounts_of_others_do_not_disturb(bundle: Bundle) -> None:
    """The mount table may hold any name."""
    others = bundle.directory / "others"
    others.mkdir()
    with odd_mounts(others):
        assert bundle.run(args=["echo", "fine"]).stdout == "fine\n"
        assert bundle.run("--no-pivot", args=["echo", "fine"]).stdout == "fine\n"


def test_unknown_keys_are_ignored(bundle: Bundle) -> None:
    """A newer specification's keys, other systems' keys, and keys that are null."""
    bundle.config |= {"future": {"x": 1}, "windows": {"y": 2}, "annotations": None, "hooks": None}
    bundle.process["future"] = [1]
    bundle.linux.update({"future": True, "sysctl": None, "seccomp": None})
    assert bundle.run(args=["echo", "fine"]).stdout == "fine\n"


def test_name_with_a_newline_is_told_as_it_was_given(bundle: Bundle) -> None:
    """Escaped, and in one line, in messages of our own process and of those in the container."""
    bundle.config["root"]["path"] = "no\nroot"
    assert "/no\\nroot is no directory" in bundle.create(check=False).stderr
    bundle.config["root"]["path"] = str(bundle.rootfs)
    bundle.process["args"] = ["no\nprogram"]
    result = bundle.create(check=False)
    assert "no\\nprogram" in result.stderr and result.stderr.count("\n") == 1


def test_files_that_cannot_be_written_are_named_as_they_were_given(bundle: Bundle) -> None:
    """The pid file, and the configuration that `spec` writes, of which no half stays."""
    result = bundle.create("--pid-file", "/nonexistent/pid", check=False)
    assert result.stderr == "unionrt: write the pid file: /nonexistent/pid: no such file or directory\n"
    path = bundle.directory / "other.json"
    script = f"ulimit -f 0; exec {PROGRAM} spec -f {path}"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (
        1,
        f"unionrt: write the configuration: {path}: file too large\n",
    )
    assert not path.exists()


def test_number_of_many_digits_is_told(bundle: Bundle) -> None:
    """In words for people who write configurations."""
    (bundle.directory / "config.json").write_text('{"x": ' + "1" * 5000 + "}")
    result = bundle.call("run", bundle.id, check=False)
    assert "a number has thousands of digits" in result.stderr and result.stderr.count("\n") == 1


def test_malformed_json_is_told_with_its_place(bundle: Bundle) -> None:
    """Line and column."""
    (bundle.directory / "config.json").write_text('{"ociVersion": "1.0.0",\n "root": }')
    result = bundle.call("run", bundle.id, check=False)
    assert result.returncode == 1
    assert "line 2 column" in result.stderr


def test_bundle_without_configuration(bundle: Bundle) -> None:
    """The hint says how to make one."""
    result = bundle.call("run", bundle.id, check=False)
    assert result.returncode == 1
    assert "config.json" in result.stderr
    assert "unionrt spec" in result.stderr


def test_terminal_without_socket_is_refused_when_detached(bundle: Bundle) -> None:
    """Nobody would take the terminal's other end; and a socket without a terminal is a mistake."""
    bundle.process["terminal"] = True
    assert "console-socket" in bundle.create(check=False).stderr
    bundle.process["terminal"] = False
    assert "console-socket" in bundle.create("--console-socket", "/no/where", check=False).stderr
    assert not list(bundle.state.glob("[!.]*"))


def test_unknown_options_and_commands_are_refused(bundle: Bundle) -> None:
    """With a status that is not zero."""
    for arguments in (
        ["nonsense"],
        ["state"],
        ["state", "a", "b"],
        ["run", "--nonsense", "x"],
        ["--nonsense"],
    ):
        result = bundle.call(*arguments, check=False)
        assert result.returncode != 0
        assert len(result.stderr.splitlines()) == 1


def test_checkpoint_is_refused(bundle: Bundle) -> None:
    """Not supported, and said so."""
    for command in ("checkpoint", "restore"):
        for options in ([], ["--image-path", "/nowhere", "--tcp-established"]):
            result = bundle.call(command, *options, bundle.id, check=False)
            assert result.returncode == 1
            assert "not supported" in result.stderr
        assert f"unionrt {command} - not supported" in bundle.call(command, "--help").stdout


def test_systemd_cgroups_without_systemd_are_refused(bundle: Bundle) -> None:
    """The message says what to give instead."""
    if Path("/run/systemd/system").is_dir():
        pytest.skip("systemd runs here")
    bundle.options = ["--systemd-cgroup"]
    assert "cgroupfs" in bundle.run(check=False).stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_interrupted_create_leaves_nothing(bundle: Bundle, number: signal.Signals) -> None:
    """A caller who loses patience gets his prompt back, and no half of a container."""
    entered = bundle.directory / "entered"
    script = f"echo $$ > {entered}.new; mv {entered}.new {entered}; sleep 1000"
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}
    bundle.save()
    with (bundle.directory / "err").open("w") as err:
        process = subprocess.Popen(
            bundle.command("create", bundle.id), cwd=bundle.directory, stdout=err, stderr=err
        )
        wait_until(entered.exists, "the hook runs")
        process.send_signal(number)
        assert process.wait(timeout=30) == 128 + number
    assert "interrupted" in (bundle.directory / "err").read_text()
    wait_for_end(int(entered.read_text()))
    assert bundle.leftovers() == []
    assert not list(bundle.state.glob("[!.]*"))
