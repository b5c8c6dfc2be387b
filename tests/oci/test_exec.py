# SPDX-License-Identifier: Apache-2.0
"""`unionrt exec`: another program in a running container, with its namespaces, group, user and filter."""

import base64
import errno
import json
import os
import socket
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.oci import Bundle, wait_for_end, wait_until

KINDS = ("mnt", "pid", "net", "ipc", "uts", "cgroup", "user", "time")


def write_process(bundle: Bundle, **changes: Any) -> str:
    """Write a process.json and return its path."""
    process = {"args": ["true"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"], **changes}
    path = bundle.directory / "process.json"
    path.write_text(json.dumps(process))
    return str(path)


def capabilities(text: str) -> dict[str, int]:
    """Return the capability sets in a /proc/PID/status."""
    lines = [line.split() for line in text.splitlines() if line.startswith("Cap")]
    return {name[3:6]: int(mask, 16) for name, mask in lines}


def test_exec_joins_every_namespace_and_group(bundle: Bundle) -> None:
    """What it sees of itself is what the container's first process sees; so does what the host sees of both."""
    bundle.linux["namespaces"] += [{"type": "time"}, {"type": "user"}]
    bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = [
        {"containerID": 0, "hostID": 0, "size": 65536}
    ]
    pid = bundle.detach()["pid"]
    bundle.exec("--detach", f"--pid-file={bundle.directory / 'pid'}", "sleep", "1000")
    other = int((bundle.directory / "pid").read_text())
    assert other != pid
    for kind in KINDS:
        assert os.readlink(f"/proc/{other}/ns/{kind}") == os.readlink(f"/proc/{pid}/ns/{kind}")
    assert Path(f"/proc/{other}/cgroup").read_text() == Path(f"/proc/{pid}/cgroup").read_text()
    assert os.readlink(f"/proc/{other}/root") == os.readlink(f"/proc/{pid}/root")


def test_exec_returns_output_and_status(bundle: Bundle) -> None:
    """The program's exit status, 128 and the signal's number, or 255 for what the runtime could not do."""
    bundle.detach()
    assert bundle.exec("sh", "-c", "echo out; exit 42", check=False).returncode == 42
    assert bundle.output().endswith("out\n")
    assert bundle.exec("sh", "-c", "kill -9 $$", check=False).returncode == 137
    assert bundle.exec("cat", stdin="given\n").stdout == "given\n"
    for words in (
        ["no-such-program"],
        ["/no/such"],
        ["--cwd=/nowhere", "true"],
        ["--pid-file=/no/dir", "true"],
    ):
        assert bundle.exec(*words, check=False).returncode == 255
    assert bundle.call("exec", "unknown", "true", check=False).returncode == 255


def test_exec_messages_hold_the_words_engines_look_for(bundle: Bundle) -> None:
    """Docker and podman make their 126 and 127 of them."""
    bundle.detach()
    for program, words in (
        ("nothing", "executable file not found in $PATH"),
        ("/nothing", "no such file or directory"),
        ("/etc/passwd", "permission denied"),
    ):
        assert words in bundle.exec(program, check=False).stderr


def test_exec_bad_interpreter_is_reported(bundle: Bundle) -> None:
    """The kernel's own refusal, told by the sealed stub after our code has gone."""
    (bundle.rootfs / "run.sh").write_text("#!/mmnnttbb foo bar\n")
    (bundle.rootfs / "run.sh").chmod(0o755)
    bundle.detach()
    result = bundle.exec("/run.sh", check=False)
    assert result.returncode == 255
    assert "exec /run.sh: no such file or directory" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_exec_takes_the_environment_of_the_container(bundle: Bundle) -> None:
    """-e is laid over it; HOME is looked up for the user."""
    bundle.process["env"] += ["A=1", "B=2"]
    bundle.detach()
    lines = bundle.exec("--env=A=3", "-eC=4", "--user=1000", "env").lines()
    assert {"A=3", "B=2", "C=4", "HOME=/home"} <= set(lines)


def test_exec_user_groups_and_directory(bundle: Bundle) -> None:
    """Ids by numbers."""
    bundle.detach()
    result = bundle.exec(
        "--user=1000:1000", "--additional-gids=100", "-g65534", "--cwd=/tmp", "sh", "-c", "id -u; id -G; pwd"
    )
    assert result.lines() == ["1000", "1000 100 65534", "/tmp"]


def test_exec_user_must_be_numbers(bundle: Bundle) -> None:
    """Nothing but digits: what looks like a name, a sign or nothing must not become root (CVE-2016-3697, CVE-2026-30892)."""
    bundle.detach()
    words = (
        "root",
        "0x0",
        "+0",
        "-1",
        " 0",
        "0 ",
        "1e3",
        "0:root",
        "0:",
        ":0",
        "",
        "4294967295",
        "١",
        "0:0:0",
        "1_0",
    )
    for text in words:
        result = bundle.exec(f"--user={text}", "id", "-u", check=False)
        assert result.returncode == 255, text
        assert result.stdout == "", text
        assert "numeric" in result.stderr, text


def test_exec_user_by_a_name_made_of_digits_is_a_number(bundle: Bundle) -> None:
    """An account called 1000 with id 0 in the container's passwd makes nobody root (CVE-2016-3697)."""
    (bundle.rootfs / "etc/passwd").write_text("1000:x:0:0::/root:/bin/sh\nroot:x:0:0::/root:/bin/sh\n")
    bundle.detach()
    assert bundle.exec("--user=1000", "id", "-u").stdout == "1000\n"


def test_exec_cap_adds_to_three_sets(bundle: Bundle) -> None:
    """Not to the inheritable ones, which pass through programs that were never given them (CVE-2022-29162)."""
    bundle.process["capabilities"] = {}
    bundle.detach()
    found = capabilities(bundle.exec("--cap=CAP_KILL", "cat", "/proc/self/status").stdout)
    assert found == {"Inh": 0, "Prm": 0x20, "Eff": 0x20, "Bnd": 0x20, "Amb": 0}
    found = capabilities(bundle.exec("cat", "/proc/self/status").stdout)
    assert set(found.values()) == {0}


def test_exec_no_new_privileges(bundle: Bundle) -> None:
    """The option can only add."""
    bundle.process["noNewPrivileges"] = False
    bundle.detach()
    for options, wanted in (([], "0"), (["--no-new-privs"], "1")):
        text = bundle.exec(*options, "cat", "/proc/self/status").stdout
        assert f"NoNewPrivs:\t{wanted}" in text


def test_exec_labels_without_a_security_module_are_refused(bundle: Bundle) -> None:
    """A label that nothing enforces would be a promise not kept."""
    if Path("/sys/module/apparmor").exists() or Path("/sys/fs/selinux/enforce").exists():
        pytest.skip("a security module is there")
    bundle.detach()
    assert "AppArmor" in bundle.exec("--apparmor=p", "true", check=False).stderr
    assert "SELinux" in bundle.exec("--process-label=l", "true", check=False).stderr


def test_exec_process_file_is_all_there_is(bundle: Bundle) -> None:
    """Nothing of config.json's process is mixed in, but for the OOM score."""
    bundle.process["env"] += ["A=1"]
    bundle.process["oomScoreAdj"] = 300
    bundle.detach()
    path = write_process(
        bundle,
        args=[
            "sh",
            "-c",
            "echo $A:$B:$PWD; id -u; cat /proc/self/oom_score_adj; grep Groups /proc/self/status",
        ],
        env=["B=2"],
        cwd="/tmp",
        user={"uid": 1000, "gid": 1000, "additionalGids": [432]},
    )
    lines = bundle.exec(f"--process={path}").lines()
    assert lines[:3] == [":2:/tmp", "1000", "300"]
    assert lines[3].split()[1:] == ["432"]


def test_exec_process_file_is_checked(bundle: Bundle) -> None:
    """With 255 and one line."""
    bundle.detach()
    path = bundle.directory / "process.json"
    for text in ("", "[]", '{"args": "true"}', '{"args": ["true"], "cwd": "tmp"}', "{}"):
        path.write_text(text)
        result = bundle.exec(f"--process={path}", check=False)
        assert result.returncode == 255, text
        assert len(result.stderr.splitlines()) == 1, text


def test_exec_affinity(bundle: Bundle) -> None:
    """`initial` holds when the group is joined, `final` after it."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is one processor")
    first, second, *_ = sorted(os.sched_getaffinity(0))
    bundle.detach()
    script = ["sh", "-c", "grep Cpus_allowed_list /proc/self/status"]
    for affinity, wanted in (
        ({"final": str(first)}, first),
        ({"initial": str(first), "final": f"{second}"}, second),
    ):
        path = write_process(bundle, args=script, execCPUAffinity=affinity)
        assert bundle.exec(f"--process={path}").stdout.split()[1] == str(wanted)


def test_exec_sees_no_descriptor_but_three(bundle: Bundle) -> None:
    """None of ours, and none of the caller's that were not named."""
    bundle.detach()
    lines = bundle.exec("sh", "-c", "ls -l /proc/$$/fd; true").lines()
    assert [line.split()[8] for line in lines[1:]] == ["0", "1", "2"]


def test_exec_preserves_descriptors(bundle: Bundle, tmp_path: Path) -> None:
    """--preserve-fds passes on those from 3; for one that is closed none of ours goes instead."""
    bundle.detach()
    (tmp_path / "f").write_text("kept")
    words = bundle.command("exec", "--preserve-fds=1", bundle.id, "cat", "/proc/self/fd/3")
    script = f'exec "$@" 3<{tmp_path}/f'
    assert subprocess.check_output(["sh", "-c", script, "sh", *words]) == b"kept"
    result = bundle.exec("--preserve-fds=9", "sh", "-c", "ls -l /proc/$$/fd; true")
    assert [line.split()[8] for line in result.lines()[1:]] == ["0", "1", "2"]
    assert "descriptor 3 is not passed on" in result.stderr


def test_exec_directory_through_our_descriptor_is_refused(bundle: Bundle) -> None:
    """/proc/self/fd leads to no directory of the host (CVE-2024-21626), nor does a link to it."""
    bundle.detach()
    for fd in range(3, 13):
        (bundle.rootfs / f"way{fd}").symlink_to(f"/proc/self/fd/{fd}")
        for cwd in (f"/proc/self/fd/{fd}", f"/way{fd}", f"/proc/self/fd/{fd}/../../.."):
            result = bundle.exec(f"--cwd={cwd}", "pwd", check=False)
            assert result.returncode == 255
            assert result.stdout == ""


def test_exec_program_through_our_descriptor_is_refused(bundle: Bundle) -> None:
    """Nor is a program of the host to be found there, or the interpreter as /proc/self/exe (CVE-2019-5736)."""
    bundle.detach()
    for path in ("/proc/self/exe", *(f"/proc/self/fd/{fd}" for fd in range(3, 13))):
        result = bundle.exec(path, "-c", "print(1)", check=False)
        assert result.stdout == ""
        assert result.returncode != 0


def test_exec_beside_a_hostile_container(bundle: Bundle) -> None:
    """A process of the container that hunts for ours opens nothing of the host: not its program, memory or descriptors."""
    (bundle.rootfs / "found").mkdir(mode=0o777)
    hunt = """while :; do for p in /proc/[0-9]*; do
        for n in exe cwd root; do t=$(readlink $p/$n) && case $t in *python*) echo $t >>/found/$n;; esac; done
        for f in $p/fd/*; do t=$(readlink $f) &&
            case $t in */state/*|*/runtime/*|*/ns/*|net:*|mnt:*) echo $t >>/found/fd;; esac; done
        m=$(cat $p/maps 2>/dev/null); case $m in *python*) echo "$m" >>/found/maps;; esac
    done; done"""
    # Neither CAP_SYS_PTRACE nor CAP_SYS_ADMIN: with these over our own user namespace nothing can be hidden from it.
    bundle.process["capabilities"] = {
        kind: ["CAP_DAC_OVERRIDE", "CAP_KILL"] for kind in ("bounding", "effective", "permitted")
    }
    bundle.detach(args=["sh", "-c", hunt])
    for _ in range(10):
        bundle.exec("true")
    assert {path.name: path.read_text() for path in (bundle.rootfs / "found").iterdir()} == {}


def test_exec_is_under_the_containers_filter(bundle: Bundle) -> None:
    """Whether the filter is loaded early, by us, or late, by the stub."""
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}
    bundle.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}
    bundle.process["noNewPrivileges"] = False
    bundle.detach()
    for options in ([], ["--no-new-privs"]):
        text = bundle.exec(
            *options, "sh", "-c", "grep Seccomp: /proc/self/status; mkdir /tmp/x; ls /tmp", check=False
        )
        assert text.stdout.split() == ["Seccomp:", "2"]
        assert "not supported" in text.stderr


def test_exec_in_a_container_without_proc(bundle: Bundle) -> None:
    """Nothing of the container's /proc is needed."""
    bundle.config["mounts"] = [m for m in bundle.config["mounts"] if m["destination"] != "/proc"]
    bundle.linux["maskedPaths"] = bundle.linux["readonlyPaths"] = []
    bundle.detach()
    assert bundle.exec("echo", "hi").stdout == "hi\n"


def test_exec_status_of_the_container_matters(bundle: Bundle) -> None:
    """Not in one that has ended, not in a paused one; in a created one."""
    bundle.shell("sleep 1000")
    bundle.create()
    assert bundle.exec("echo", "early").stdout == "early\n"
    bundle.start()
    bundle.kill()
    bundle.wait_for_status("stopped")
    result = bundle.exec("true", check=False)
    assert result.returncode == 255
    assert "stopped" in result.stderr


def test_exec_in_a_paused_container_is_refused(bundle: Bundle) -> None:
    """It would hang until the container goes on; --ignore-paused asks for that."""
    bundle.detach()
    bundle.call("pause", bundle.id)
    result = bundle.exec("true", check=False)
    bundle.call("resume", bundle.id)
    assert result.returncode == 255
    assert "paused" in result.stderr


def test_exec_cgroup_below(bundle: Bundle) -> None:
    """A group below the container's, never beside or above it."""
    pid = bundle.detach()["pid"]
    groups = dict(line.split(":", 2)[1:] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines())
    if "pids" not in groups:
        pytest.skip("no v1 hierarchy for pids here")
    below = Path("/sys/fs/cgroup/pids") / groups["pids"].strip("/") / "below"
    below.mkdir()
    bundle.exec("--detach", "--cgroup=pids:below", f"--pid-file={bundle.directory / 'pid'}", "sleep", "9")
    other = int((bundle.directory / "pid").read_text())
    assert f":pids:{groups['pids']}/below\n" in Path(f"/proc/{other}/cgroup").read_text()
    for path in ("..", "pids:../..", "nowhere", "pids:nowhere", "soup:/"):
        assert bundle.exec(f"--cgroup={path}", "true", check=False).returncode == 255


def test_exec_detached_program_outlives_the_command(bundle: Bundle) -> None:
    """And ends with the container."""
    bundle.detach()
    bundle.exec("--detach", f"--pid-file={bundle.directory / 'pid'}", "sleep", "1000")
    other = int((bundle.directory / "pid").read_text())
    assert Path(f"/proc/{other}/comm").read_text() == "sleep\n"
    bundle.delete("--force")
    wait_for_end(other)


def test_exec_hands_over_a_pidfd(bundle: Bundle) -> None:
    """--pidfd-socket gets a descriptor of the process."""
    bundle.detach()
    path = bundle.directory / "pidfd.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        bundle.exec(
            "--detach", f"--pidfd-socket={path}", f"--pid-file={bundle.directory / 'pid'}", "sleep", "9"
        )
        connection, _ = listener.accept()
        with connection:
            _, controls, _, _ = connection.recvmsg(64, socket.CMSG_SPACE(4))
    (pidfd,) = struct.unpack("=i", controls[0][2])
    text = Path(f"/proc/self/fdinfo/{pidfd}").read_text()
    os.close(pidfd)
    assert f"Pid:\t{(bundle.directory / 'pid').read_text()}\n" in text


def test_exec_many_at_once(make_bundle: Callable[[], Bundle]) -> None:
    """Several do not disturb each other, and none stays."""
    bundle = make_bundle()
    bundle.detach()
    children = []
    for number in range(8):
        pid = os.fork()
        if pid == 0:
            os.execv(bundle.command()[0], bundle.command("exec", bundle.id, "sh", "-c", f"exit {number}"))
        children.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    assert codes == list(range(8))
    wait_until(
        lambda: bundle.exec("sh", "-c", "ls -d /proc/[0-9]*").stdout.count("\n") <= 3, "all have ended"
    )


def test_exec_stays_in_the_root_of_a_container_without_mount_namespace(bundle: Bundle) -> None:
    """Its first process has only changed its root directory; to join its namespaces leads to the host's."""
    kept = [entry for entry in bundle.linux["namespaces"] if entry["type"] not in ("mount", "cgroup")]
    bundle.linux["namespaces"] = kept
    bundle.config["mounts"] = []
    for key in ("maskedPaths", "readonlyPaths"):
        del bundle.linux[key]
    (bundle.rootfs / "inside").write_text("")
    bundle.detach()
    assert "inside" in bundle.exec("/bin/ls", "/").lines()
    assert bundle.exec("/bin/ls", "/..").lines() == bundle.exec("/bin/ls", "/").lines()


def test_exec_is_under_a_filter_given_as_a_program(bundle: Bundle) -> None:
    """An annotation may hold the compiled filter, and config.json no profile at all."""
    numbers = {"x86_64": (83, 258), "aarch64": (34,)}[os.uname().machine]  # mkdir, mkdirat
    program = struct.pack("=HBBI", 0x20, 0, 0, 0)  # load the number of the system call
    for number in numbers:  # return an error if it is this one
        program += struct.pack("=HBBIHBBI", 0x15, 0, 1, number, 0x06, 0, 0, 0x00050000 | errno.EPERM)
    program += struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)  # allow
    bundle.config["annotations"] = {"run.oci.seccomp_bpf_data": base64.b64encode(program).decode()}
    bundle.detach()
    done = bundle.exec("/bin/mkdir", "/tmp/made", check=False)
    assert "not permitted" in done.stderr.lower()


def test_exec_finds_no_home_with_a_nul(bundle: Bundle) -> None:
    """The container writes its /etc/passwd; what cannot be passed to a program must not stop it."""
    bundle.detach()
    (bundle.rootfs / "etc/passwd").write_bytes(b"root:x:0:0:root:/ro\0ot:/bin/sh\n")
    assert bundle.exec("/bin/sh", "-c", "echo $HOME").stdout == "/\n"


def test_exec_of_billions_of_descriptors_tells_of_the_first(bundle: Bundle) -> None:
    """Each that is not open is warned of, up to a sensible number."""
    bundle.detach()
    done = bundle.exec("--preserve-fds=2000000000", "true")
    assert len(done.stderr.splitlines()) == 16
