# SPDX-License-Identifier: Apache-2.0
"""pause, resume, update, events, ps, and the limits of config.json, through the program."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.oci.cgroups import layout
from runtime.oci.commands.events import seconds
from runtime.oci.commands.kill import signal_number
from runtime.oci.commands.ps import select
from runtime.oci.commands.update import size
from runtime.oci.failure import Failure
from tests.support.oci import Bundle, wait_until

MIB = 1 << 20
LOOP = ("/bin/sh", "-c", "while :; do :; done")


def _stats(bundle: Bundle) -> dict[str, Any]:
    event = json.loads(bundle.call("events", "--stats", bundle.id).stdout)
    assert (event["type"], event["id"]) == ("stats", bundle.id)
    data: dict[str, Any] = event["data"]
    return data


@pytest.mark.skipif(not layout.detect().unified, reason="is about cgroup v2")
def test_options_of_a_v2_mount_reach_the_kernel(bundle: Bundle) -> None:
    """One that it does not know is an error, not ignored."""
    bundle.mount("/sys/fs/cgroup", type="cgroup", source="cgroup", options=["ro", "nonsense"])
    result = bundle.run(args=["true"], check=False)
    assert (result.returncode, "nonsense" in result.stderr) == (1, True)


def test_limits_of_the_configuration_are_set(bundle: Bundle) -> None:
    """What linux.resources asks for holds for the program, and events tells it."""
    bundle.linux["resources"] = {
        "memory": {"limit": 64 * MIB, "swap": 64 * MIB},
        "cpu": {"shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0"},
        "pids": {"limit": 20},
    }
    bundle.detach()
    stats = _stats(bundle)
    assert stats["memory"]["usage"]["limit"] == 64 * MIB
    assert stats["pids"] == {"current": 1, "limit": 20}
    assert stats["cpuset"]["cpus"] == [0]
    assert stats["cpu"]["usage"]["total"] > 0
    assert 0 < stats["memory"]["usage"]["usage"] < 16 * MIB


def test_memory_limit_kills_the_program_only(bundle: Bundle) -> None:
    """Who takes too much gets 137, and the runtime says nothing wrong."""
    bundle.linux["resources"] = {"memory": {"limit": 32 * MIB, "swap": 32 * MIB}}
    done = bundle.run(args=["dd", "if=/dev/zero", "of=/dev/null", "bs=100M", "count=1"], check=False)
    assert done.returncode == 137


def test_pause_and_resume(bundle: Bundle) -> None:
    """A paused container stands, is called so, and goes on after resume; each only from the state it is for."""
    bundle.detach(args=LOOP)
    assert "not paused" in bundle.call("resume", bundle.id, check=False).stderr
    bundle.call("pause", bundle.id)
    assert bundle.status()["status"] == "paused"
    before = _stats(bundle)["cpu"]["usage"]["total"]
    assert "paused" in bundle.call("pause", bundle.id, check=False).stderr
    assert _stats(bundle)["cpu"]["usage"]["total"] - before < 5_000_000
    bundle.call("resume", bundle.id)
    assert bundle.status()["status"] == "running"
    wait_until(lambda: _stats(bundle)["cpu"]["usage"]["total"] > before + 10_000_000, "the loop goes on")


def test_a_container_paused_before_its_start_can_be_resumed(bundle: Bundle) -> None:
    """It is called paused, cannot be started (that would wait for ever), and after resume is created as before."""
    bundle.create()
    bundle.call("pause", bundle.id)
    assert bundle.status()["status"] == "paused"
    assert "paused" in bundle.start(check=False).stderr
    bundle.call("resume", bundle.id)
    assert bundle.status()["status"] == "created"
    bundle.start()


def test_a_paused_container_can_be_killed_and_deleted(bundle: Bundle) -> None:
    """SIGKILL ends what is paused, on v1 too."""
    bundle.detach()
    bundle.call("pause", bundle.id)
    bundle.kill()
    bundle.wait_for_status("stopped")
    bundle.delete()


def test_update_by_options(bundle: Bundle) -> None:
    """Options change what they name; sizes take units."""
    bundle.detach()
    bundle.call("update", "--memory", "48M", "--memory-swap", "96M", "--pids-limit", "30", bundle.id)
    stats = _stats(bundle)
    assert stats["memory"]["usage"]["limit"] == 48 * MIB
    assert stats["pids"]["limit"] == 30
    bundle.call("update", "--cpu-quota", "30000", "--cpu-period", "60000", "--cpuset-cpus", "0", bundle.id)
    bundle.call("update", "--memory", "-1", "--pids-limit", "-1", bundle.id)
    stats = _stats(bundle)
    assert stats["memory"]["usage"]["limit"] == 2**64 - 1
    assert stats["pids"]["limit"] == 0
    assert stats["cpuset"]["cpus"] == [0]


def test_update_from_standard_input(bundle: Bundle) -> None:
    """A document changes what it names; devices it does not name stay as they were."""
    bundle.detach()
    resources = {"memory": {"limit": 80 * MIB}, "cpu": {"shares": 0, "quota": 0}, "blockIO": {}}
    bundle.call("update", "--resources", "-", bundle.id, stdin=json.dumps(resources))
    assert _stats(bundle)["memory"]["usage"]["limit"] == 80 * MIB
    refused = bundle.call("update", "-r", "-", bundle.id, stdin="[1]", check=False)
    assert refused.returncode == 1 and "no JSON object" in refused.stderr


def test_update_refuses_clearly(bundle: Bundle) -> None:
    """A stopped container, a size that is none, what is not supported."""
    bundle.detach()
    assert "not a size" in bundle.call("update", "--memory", "many", bundle.id, check=False).stderr
    refused = bundle.call("update", "--l3-cache-schema", "L3:0=f", bundle.id, check=False)
    assert "not supported" in refused.stderr
    bundle.kill()
    bundle.wait_for_status("stopped")
    assert "stopped" in bundle.call("update", "--memory", "48M", bundle.id, check=False).stderr


def test_events_tells_kills_and_statistics(bundle: Bundle) -> None:
    """A line for each kill for want of memory, statistics in between, and it ends with the container."""
    bundle.linux["resources"] = {"memory": {"limit": 32 * MIB, "swap": 32 * MIB}}
    bundle.shell("read x; dd if=/dev/zero of=/dev/null bs=100M count=1; read y")
    bundle.save()
    read, write = os.pipe()
    with subprocess.Popen(bundle.command("run", bundle.id), cwd=bundle.directory, stdin=read) as program:
        os.close(read)
        wait_until(
            lambda: bundle.state.joinpath(bundle.id).exists() and bundle.status()["status"] == "running",
            "it runs",
        )
        command = bundle.command("events", "--interval", "100ms", bundle.id)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as events:
            assert events.stdout is not None
            assert json.loads(events.stdout.readline())["type"] == "stats"
            os.write(write, b"\n")
            kinds: list[str] = []
            while not kinds or kinds[-1] != "oom":
                kinds.append(json.loads(events.stdout.readline())["type"])
            os.close(write)
            program.wait(20)
            rest = [json.loads(line)["type"] for line in events.stdout]
            assert events.wait(20) == 0
            assert set(rest) <= {"stats"}


def test_ps_shows_the_processes_of_the_container_only(bundle: Bundle) -> None:
    """As JSON the host's pids, as a table the lines of ps."""
    state = bundle.detach(args=("/bin/sh", "-c", "sleep 1001 & exec sleep 1002"))
    wait_until(lambda: len(json.loads(bundle.call("ps", "-f", "json", bundle.id).stdout)) == 2, "both run")
    pids = json.loads(bundle.call("ps", "--format", "json", bundle.id).stdout)
    assert state["pid"] in pids
    table = bundle.call("ps", bundle.id).lines()
    assert "PID" in table[0] and len(table) == 3
    assert bundle.call("ps", bundle.id, "-o", "pid,comm").lines()[0].split() == ["PID", "COMMAND"]


def test_ps_of_a_process_with_an_odd_name_is_one_line(bundle: Bundle) -> None:
    """A container names its processes: such a name ends no line, though Unicode may say so, and does nothing to a terminal."""
    script = r"printf 'x\342\200\2501 PID\033[31m' > /proc/$$/comm; sleep 1004; true"
    pid = bundle.detach(args=("/bin/sh", "-c", script))["pid"]
    wait_until(lambda: len(json.loads(bundle.call("ps", "-f", "json", bundle.id).stdout)) == 2, "both run")
    for words in ([], ["-o", "pid,comm,args"]):
        table = bundle.call("ps", bundle.id, *words).stdout
        assert str(pid) in table and table.count("\n") == 3
        assert all(c.isprintable() or c == "\n" for c in table), ascii(table)


def _is_v2() -> bool:
    return Path("/sys/fs/cgroup/cgroup.controllers").exists()


NESTED = "cd /sys/fs/cgroup && mkdir inner && echo 1 >inner/cgroup.procs && echo +pids >cgroup.subtree_control && touch /ready"


def test_exec_joins_a_container_that_manages_groups_itself(bundle: Bundle) -> None:
    """Once the container has handed controllers down, its own group takes no process: exec goes where the first process is."""
    if not _is_v2():
        pytest.skip("on v1 any group takes processes")
    for mount in bundle.config["mounts"]:
        if mount["type"] == "cgroup":
            mount["options"] = [word for word in mount["options"] if word != "ro"]
    bundle.detach(args=["/bin/sh", "-c", f"{NESTED}; sleep 1000"])
    wait_until((bundle.rootfs / "ready").exists, "it has made a group")
    assert bundle.exec("cat", "/proc/self/cgroup").stdout == "0::/inner\n"
    assert bundle.status()["pid"] in json.loads(bundle.call("ps", "-f", "json", bundle.id).stdout)


def test_exec_is_limited_like_the_container(bundle: Bundle) -> None:
    """What is started later counts too, and can be put into a group below the container's."""
    bundle.linux["resources"] = {"pids": {"limit": 6}}
    bundle.detach()
    forks = "for i in 1 2 3 4 5 6; do sleep 30 >/dev/null 2>&1 & done"
    assert bundle.exec("sh", "-c", forks, check=False).returncode != 0
    assert bundle.exec("--cgroup", "../..", "true", check=False).returncode != 0


def test_paths_that_cannot_be_are_refused(make_bundle: Callable[[], Bundle]) -> None:
    """systemd's form and a path that leaves the hierarchy; nothing is left of the attempt."""
    for path, words in (("system.slice:unionrt:x", "systemd"), ("/a/../../b", "leaves")):
        bundle = make_bundle()
        bundle.linux["cgroupsPath"] = path
        done = bundle.run(args=["/bin/true"], check=False)
        assert done.returncode == 1 and words in done.stderr
        bundle.linux["cgroupsPath"] = "/gone"


def test_no_group_with_the_manager_disabled(bundle: Bundle) -> None:
    """--cgroup-manager disabled touches no cgroup, and the container runs."""
    bundle.options += ["--cgroup-manager", "disabled"]
    bundle.linux["resources"] = {}
    assert bundle.run(args=["cat", "/proc/self/cgroup"]).stdout
    state = bundle.detach()
    names = [name for _, names, _ in os.walk("/sys/fs/cgroup") for name in names]  # some vanish meanwhile
    assert f"unionrt-{bundle.id}" not in names
    assert json.loads(bundle.call("ps", "-f", "json", bundle.id).stdout) == [state["pid"]]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("1048576", MIB),
        ("512k", 512 << 10),
        ("64M", 64 * MIB),
        ("1GB", 1 << 30),
        ("1.5GiB", 3 << 29),
        ("-1", -1),
    ],
)
def test_sizes(text: str, value: int) -> None:
    """Units are powers of 1024, in either case."""
    assert size("memory", text) == value


@pytest.mark.parametrize(
    ("text", "value"), [("5s", 5), ("100ms", 0.1), ("1m", 60), ("2.5", 2.5), ("1h", 3600)]
)
def test_durations(text: str, value: float) -> None:
    """As Go writes them."""
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize(
    "text", ["-5", "-5M", "x", "M", "inf", "nan", "1e400", "²", str(1 << 63), "9" * 5000]
)
def test_sizes_that_are_none(text: str) -> None:
    """They are refused; in particular no slip lifts a limit."""
    with pytest.raises(Failure, match="size"):
        size("memory", text)


@pytest.mark.parametrize("text", ["9" * 5000, "RTMIN+" + "9" * 5000, "²", "65", "-1", "NOPE"])
def test_signals_that_are_none(text: str) -> None:
    """They are refused by name."""
    with pytest.raises(Failure, match="unknown signal"):
        signal_number(text)


@pytest.mark.parametrize("text", ["", "s", "0s", "-1s", "x", "²", "1000000000h", "9" * 400])
def test_durations_that_are_none(text: str) -> None:
    """They are refused."""
    with pytest.raises(Failure, match="duration"):
        seconds(text)


def test_ps_filter_needs_the_column() -> None:
    """The column PID is found wherever it is."""
    lines = ["USER PID COMMAND", "root 1 init", "root 12 sh", "root 120 x"]
    assert select(lines, [12]) == ["USER PID COMMAND", "root 12 sh"]
    with pytest.raises(Failure, match="PID"):
        select(["USER COMMAND"], [1])


def test_update_checks_the_types_in_a_file(bundle: Bundle) -> None:
    """It is as foreign as config.json."""
    bundle.detach()
    result = bundle.call("update", "--resources", "-", bundle.id, stdin='{"memory": 5}', check=False)
    assert "linux.resources.memory is not an object" in result.stderr


def test_delete_force_of_a_paused_container_does_not_wait(bundle: Bundle) -> None:
    """A frozen process of v1 does not die before it is let go."""
    bundle.detach()
    bundle.call("pause", bundle.id)
    before = time.monotonic()
    bundle.delete("--force")
    assert time.monotonic() - before < 8


def test_kill_all_without_a_group_reaches_the_first_process(bundle: Bundle) -> None:
    """Nobody knows of the others then; with a pid namespace they end with it."""
    bundle.options = ["--cgroup-manager", "disabled"]
    bundle.detach()
    bundle.kill("KILL", "--all")
    bundle.wait_for_status("stopped")
