# SPDX-License-Identifier: Apache-2.0
"""create, start, run, state, kill, delete and list: what a caller of runc or crun expects of them."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.oci import Bundle, has_ended, wait_for_end, wait_until


def test_run_returns_output_and_status(bundle: Bundle) -> None:
    """The program's exit status is the command's, and nothing stays."""
    bundle.shell("echo out; echo err >&2; exit 7")
    result = bundle.run(check=False)
    assert (result.returncode, result.stdout, result.stderr) == (7, "out\n", "err\n")
    assert bundle.leftovers() == []


def test_run_killed_program_gives_128_and_signal(bundle: Bundle) -> None:
    """A program that a signal ended is told from one that exited."""
    bundle.shell("kill -9 $$")  # pid 1 is immune to its own signals, but not to the runtime's
    bundle.shell("sh -c 'kill -9 $$'; exit $?")
    assert bundle.run(check=False).returncode == 137


def test_run_feeds_standard_input(bundle: Bundle) -> None:
    """The container reads what the caller gives."""
    assert bundle.run(args=["cat"], stdin="hello\n").stdout == "hello\n"


def test_create_start_delete(bundle: Bundle) -> None:
    """The program runs after `start`, not before; the state tells each stage."""
    bundle.shell("echo started; read line")
    bundle.create("--pid-file", str(bundle.directory / "pid"))
    state = bundle.status()
    assert state["status"] == "created"
    assert state["pid"] == int((bundle.directory / "pid").read_text())
    assert state["bundle"] == str(bundle.directory)
    assert bundle.output().count("started") == 0
    bundle.start()
    bundle.wait_for_status("stopped")
    assert bundle.status()["pid"] == 0
    assert bundle.output().count("started") == 1
    bundle.delete()
    assert bundle.leftovers() == []


def test_created_container_is_not_python(bundle: Bundle) -> None:
    """What waits for `start` is a page of machine code: no interpreter, no memory of ours."""
    bundle.create()
    pid = bundle.status()["pid"]
    assert os.readlink(f"/proc/{pid}/exe").startswith("/memfd:")
    assert {int(fd) for fd in os.listdir(f"/proc/{pid}/fd")} >= {0, 1, 2}


def test_start_twice_fails(bundle: Bundle) -> None:
    """Only a created container can be started."""
    bundle.process["args"] = ["sleep", "100"]
    bundle.create()
    bundle.start()
    assert bundle.status()["status"] == "running"
    result = bundle.start(check=False)
    assert result.returncode == 1
    assert "running" in result.stderr


def test_create_taken_id_fails_and_leaves_the_container(bundle: Bundle) -> None:
    """An id belongs to the first who takes it."""
    bundle.detach()
    result = bundle.create(check=False)
    assert result.returncode == 1
    assert "already exists" in result.stderr
    assert bundle.status()["status"] == "running"


def test_kill_sends_the_signal(bundle: Bundle) -> None:
    """Names with and without SIG, and numbers."""
    bundle.shell("trap 'echo got' USR1; trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done")
    bundle.run("--detach")
    for name in ("USR1", "SIGUSR1", str(int(signal.SIGUSR1)), "usr1"):
        bundle.kill(name)
    bundle.kill("TERM")
    bundle.wait_for_status("stopped")
    assert bundle.kill("TERM", check=False).returncode == 1
    assert "got" in bundle.output()


def test_kill_unknown_signal_fails(bundle: Bundle) -> None:
    """A word that is no signal is refused by name."""
    bundle.detach()
    result = bundle.kill("NONSENSE", check=False)
    assert result.returncode == 1
    assert "NONSENSE" in result.stderr


def test_kill_all_without_pid_namespace_reaches_every_process(bundle: Bundle) -> None:
    """--all signals what the cgroup holds, as killing the first process does not end the others then."""
    bundle.linux["namespaces"] = [entry for entry in bundle.linux["namespaces"] if entry["type"] != "pid"]
    bundle.shell("sleep 1000 & echo $!; wait")
    pid = bundle.detach(args=bundle.process["args"])["pid"]
    child = int(bundle.output().split()[0])
    bundle.kill("KILL", "--all")
    wait_for_end(pid)
    wait_for_end(child)


def test_delete_running_needs_force(bundle: Bundle) -> None:
    """A container that runs is not deleted by mistake."""
    pid = bundle.detach()["pid"]
    result = bundle.delete(check=False)
    assert result.returncode == 1
    assert "running" in result.stderr
    bundle.delete("--force")
    assert has_ended(pid)
    assert bundle.leftovers() == []


def test_delete_unknown_container(bundle: Bundle) -> None:
    """It is an error, but not with --force."""
    assert bundle.delete(check=False).returncode == 1
    assert bundle.delete("--force").returncode == 0


def test_list_tells_all_containers(make_bundle: Callable[[], Bundle]) -> None:
    """As a table, as JSON, and only the ids; no state directory is an empty list."""
    first, second = make_bundle(), make_bundle()
    second.state = first.state
    assert first.call("list", "--format", "json").stdout == "[]\n"
    first.detach()
    second.create()
    entries = {
        entry["id"]: entry["status"] for entry in json.loads(first.call("list", "--format", "json").stdout)
    }
    assert entries == {first.id: "running", second.id: "created"}
    assert sorted(first.call("list", "--quiet").lines()) == sorted(entries)
    assert first.call("list").lines()[0].split()[:3] == ["ID", "PID", "STATUS"]


def test_list_has_colours_on_a_terminal_only(bundle: Bundle) -> None:
    """The status is painted for people; programs, and people with NO_COLOR, get plain text."""
    (bundle.state / "one").mkdir(parents=True)
    plain = bundle.call("list").stdout
    assert "\033" not in plain
    assert _on_terminal(bundle, "list") != plain
    bundle.environment["NO_COLOR"] = "1"
    assert _on_terminal(bundle, "list") == plain


def _on_terminal(bundle: Bundle, *arguments: str) -> str:
    master, slave = os.openpty()
    subprocess.run(bundle.command(*arguments), stdout=slave, env=bundle.environment, check=True, timeout=60)
    os.close(slave)
    with open(master, "rb", buffering=0) as terminal:
        return terminal.read(65536).decode().replace("\r\n", "\n")


def test_state_of_unknown_container_fails(bundle: Bundle) -> None:
    """One line says which."""
    result = bundle.call("state", "nobody", check=False)
    assert result.returncode == 1
    assert "nobody" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_ids_that_are_paths_are_refused(bundle: Bundle) -> None:
    """An id names a directory; it must not lead out of the state root."""
    bundle.save()
    for identity in ("../x", "a/b", ".x", "", "a b"):
        result = bundle.call("run", identity, check=False)
        assert result.returncode == 1
        assert "invalid container ID" in result.stderr


def test_program_not_found_fails_at_create(bundle: Bundle) -> None:
    """The message has the words that engines look for, and nothing is left."""
    bundle.process["args"] = ["no-such-program"]
    result = bundle.create(check=False)
    assert result.returncode != 0
    assert "executable file not found in $PATH" in result.stderr
    assert bundle.leftovers() == []


def test_keep_leaves_the_container(bundle: Bundle) -> None:
    """`run --keep` lets the caller look at the state afterwards."""
    bundle.run("--keep", args=["true"])
    assert bundle.status()["status"] == "stopped"


def test_pid_is_the_namespace_first(bundle: Bundle) -> None:
    """The program is pid 1 and sees nobody else."""
    bundle.shell("echo $$; ls -d /proc/[0-9]*")
    lines = bundle.run().lines()
    assert lines[0] == "1"
    assert "/proc/1" in lines


def test_joined_namespace_is_shared(make_bundle: Callable[[], Bundle]) -> None:
    """A container can enter the namespaces of another."""
    first, second = make_bundle(), make_bundle()
    pid = first.detach()["pid"]
    for entry in second.linux["namespaces"]:
        if entry["type"] in ("network", "ipc", "uts", "pid"):
            name = {"network": "net"}.get(entry["type"], entry["type"])
            entry["path"] = f"/proc/{pid}/ns/{name}"
    del second.config["hostname"]
    second.shell("readlink /proc/self/ns/net; readlink /proc/self/ns/uts; echo $$")
    lines = second.run().lines()
    assert lines[:2] == [os.readlink(f"/proc/{pid}/ns/{name}") for name in ("net", "uts")]
    assert lines[2] != "1"


def test_joined_namespace_of_another_type_is_refused(bundle: Bundle) -> None:
    """A path that is no namespace, or one of another type, is named."""
    for path in ("/proc/self/ns/uts", "/proc/self/status"):
        for entry in bundle.linux["namespaces"]:
            if entry["type"] == "network":
                entry["path"] = path
        result = bundle.run(check=False)
        assert result.returncode == 1
        assert path in result.stderr


def test_user_namespace_maps_ids(bundle: Bundle) -> None:
    """Root inside is the mapped user outside."""
    bundle.linux["namespaces"].append({"type": "user"})
    bundle.linux["uidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    bundle.linux["gidMappings"] = [{"containerID": 0, "hostID": 200000, "size": 65536}]
    pid = bundle.detach()["pid"]
    status = Path(f"/proc/{pid}/status").read_text()
    assert "Uid:\t100000" in status
    assert "Gid:\t200000" in status


def test_user_namespace_without_mappings_gets_one(bundle: Bundle) -> None:
    """A user namespace that says no more is made usable."""
    bundle.linux["namespaces"].append({"type": "user"})
    assert bundle.run(args=["id", "-u"]).stdout == "0\n"


def test_time_namespace_has_its_own_clocks(bundle: Bundle) -> None:
    """The offsets apply to the container's clocks."""
    bundle.linux["namespaces"].append({"type": "time"})
    bundle.linux["timeOffsets"] = {"monotonic": {"secs": 7200}, "boottime": {"secs": 1000000}}
    bundle.shell("cat /proc/uptime; cat /proc/self/timens_offsets")
    lines = bundle.run().lines()
    assert float(lines[0].split()[0]) > 1000000
    assert lines[1].split()[1:] == ["7200", "0"]


def test_hostname_and_domainname_are_set(bundle: Bundle) -> None:
    """Both names of the UTS namespace."""
    bundle.config["hostname"], bundle.config["domainname"] = "box", "example.org"
    bundle.shell("hostname; cat /proc/sys/kernel/domainname")
    assert bundle.run().lines() == ["box", "example.org"]


def test_preserved_descriptors_reach_the_program(bundle: Bundle) -> None:
    """--preserve-fds passes descriptors from 3 on, and no other."""
    bundle.shell("echo through >&3; ls /proc/self/fd")
    bundle.save()
    target = bundle.directory / "three"
    script = ["sh", "-c", 'exec 3>"$0" 4>&1 7>&1; exec "$@"', str(target)]
    command = bundle.command("run", "--preserve-fds", "1", bundle.id)
    result = subprocess.run(
        [*script, *command], cwd=bundle.directory, stdout=subprocess.PIPE, text=True, timeout=60
    )
    assert target.read_text() == "through\n"
    assert result.stdout.split() == ["0", "1", "2", "3", "4"]  # 4 is the directory that ls reads


def test_dry_run_tells_the_steps_and_does_nothing(bundle: Bundle) -> None:
    """The steps are numbered, in order, and nothing is made."""
    result = bundle.run("--dry-run")
    lines = result.lines()
    assert [int(line.split()[0]) for line in lines] == list(range(1, len(lines) + 1))
    assert any("mount proc on /proc" in line for line in lines)
    assert not bundle.state.exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda bundle: bundle.config["root"].update(path="nosuch"), "nosuch is no directory; see root.path"),
        (lambda bundle: bundle.mount("/mnt", type="bind", source="/no/such"), "/no/such: no such file"),
        (lambda bundle: setattr(bundle, "id", "a/b"), "invalid container ID"),
        (lambda bundle: bundle.state.joinpath(bundle.id).mkdir(parents=True), "already exists"),
    ],
)
def test_dry_run_refuses_what_a_run_refuses(
    bundle: Bundle, change: Callable[[Bundle], object], words: str
) -> None:
    """What is not there, or is there already, is told with the words and the status of `run`."""
    change(bundle)
    dry = bundle.run("--dry-run", check=False)
    real = bundle.run(args=["true"], check=False)
    assert words in dry.stderr
    assert (dry.returncode, dry.stdout, dry.stderr) == (1, "", real.stderr)
    if bundle.state.joinpath(bundle.id).is_dir():
        bundle.state.joinpath(bundle.id).rmdir()


def test_paths_with_dots_behind_a_link_lead_where_the_kernel_goes(bundle: Bundle) -> None:
    """`LINK/..` is the directory above the link's target, for --root and --bundle, not the one that the link is in."""
    (bundle.directory / "there/below").mkdir(parents=True)
    (bundle.directory / "there/state").mkdir()
    (bundle.directory / "link").symlink_to("there/below")
    (bundle.directory / "there/bundle").symlink_to("..")
    bundle.save()
    here = bundle.directory / "link/.."
    result = bundle.call("--root", f"{here}/state", "create", "--bundle", f"{here}/bundle", bundle.id)
    assert result.stderr == ""
    assert (bundle.directory / "there/state" / bundle.id).is_dir()
    bundle.call("--root", str(bundle.directory / "there/state"), "delete", "--force", bundle.id)


def test_pidfd_socket_gets_a_pidfd(bundle: Bundle) -> None:
    """The descriptor refers to the first process, whatever becomes of its number."""
    path = bundle.directory / "socket"
    bundle.process["args"] = ["sleep", "1000"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        bundle.create("--pidfd-socket", str(path))
        with listener.accept()[0] as connection:
            _, descriptors, _, _ = socket.recv_fds(connection, 100, 1)
    pidfd = descriptors[0]
    try:
        text = Path(f"/proc/self/fdinfo/{pidfd}").read_text()
        assert f"Pid:\t{bundle.status()['pid']}\n" in text
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        bundle.wait_for_status("stopped")
    finally:
        os.close(pidfd)


def test_log_file_has_what_engines_parse(bundle: Bundle) -> None:
    """JSON lines or text, appended to the file; file: may be written before the path."""
    log = bundle.directory / "log"
    for options in (["--log", str(log)], ["--log", f"file:{log}", "--log-format", "json"]):
        bundle.options = options
        bundle.call("state", "nobody", check=False)
    text, parsed = log.read_text().splitlines()
    assert "level=error" in text
    assert 'msg="container' in text
    entry = json.loads(parsed)
    assert entry["level"] == "error"
    assert "nobody" in entry["msg"]
    assert entry["time"].endswith("Z")


def test_foreground_run_hands_signals_on(bundle: Bundle) -> None:
    """A signal to `run` reaches the program, whose answer becomes the exit status."""
    bundle.shell("trap 'exit 42' TERM; echo up; while :; do sleep 0.05; done")
    bundle.save()
    output = bundle.directory / "output"
    with output.open("w") as out:
        process = subprocess.Popen(bundle.command("run", bundle.id), cwd=bundle.directory, stdout=out)
        wait_until(lambda: "up" in output.read_text(), "the program runs")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 42
    assert bundle.leftovers() == []


def test_joined_user_namespace_brings_its_ids_and_rights(make_bundle: Callable[[], Bundle]) -> None:
    """As the containers of a pod do: user, network, ipc and uts of the first, the rest its own."""
    first, second = make_bundle(), make_bundle()
    first.linux["namespaces"].append({"type": "user"})
    for key in ("uidMappings", "gidMappings"):
        first.linux[key] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    pid = first.detach()["pid"]
    second.linux["namespaces"].append({"type": "user"})
    for entry in second.linux["namespaces"]:
        if entry["type"] in ("user", "network", "ipc", "uts"):
            name = {"network": "net"}.get(entry["type"], entry["type"])
            entry["path"] = f"/proc/{pid}/ns/{name}"
    del second.config["hostname"]
    second.shell(
        "id -u; readlink /proc/self/ns/user; readlink /proc/self/ns/net; cat /proc/self/uid_map; echo $$"
    )
    lines = second.run().lines()
    assert lines[0] == "0"
    assert lines[1:3] == [os.readlink(f"/proc/{pid}/ns/{name}") for name in ("user", "net")]
    assert lines[3].split() == ["0", "100000", "65536"]
    assert lines[4] == "1"


def test_joined_mount_and_time_namespaces(make_bundle: Callable[[], Bundle]) -> None:
    """A container in another's mount namespace sees the mounts made there; in its time namespace its clock."""
    first, second = make_bundle(), make_bundle()
    first.linux["namespaces"].append({"type": "time"})
    first.linux["timeOffsets"] = {"boottime": {"secs": 5000000}}
    pid = first.detach()["pid"]
    second.linux["namespaces"].append({"type": "time", "path": f"/proc/{pid}/ns/time"})
    second.shell("cat /proc/uptime")
    assert float(second.run().stdout.split()[0]) > 5000000


def test_run_without_standard_descriptors(bundle: Bundle) -> None:
    """The container gets the null device; no file of ours takes their place, and what `run` has to say harms none."""
    bundle.process["capabilities"]["bounding"].append("CAP_UNKNOWN")  # is warned of
    links = " ".join(f"$(readlink /proc/$$/fd/{fd})" for fd in range(3))
    bundle.shell(f'links="{links}"; echo $links > /tmp/links; exit 3')
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    bundle.save()
    close = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"]
    done = subprocess.run([*close, *bundle.command("run", bundle.id)], cwd=bundle.directory, timeout=60)
    assert done.returncode == 3
    assert (bundle.rootfs / "tmp/links").read_text().split() == ["/dev/null"] * 3
