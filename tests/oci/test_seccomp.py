# SPDX-License-Identifier: Apache-2.0
"""linux.seccomp through the program: what a container may call, who is asked, and what is told when it goes wrong."""

import base64
import ctypes.util
import errno
import json
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.oci.seccomp import default
from tests.support.oci import Bundle

pytestmark = pytest.mark.skipif(not ctypes.util.find_library("seccomp"), reason="libseccomp is not installed")

MKDIR = ("mkdir", "mkdirat")


def refuse(*names: str, **more: Any) -> dict[str, Any]:
    """Return a profile that allows all but `names`."""
    rule = {"names": list(names), "action": "SCMP_ACT_ERRNO", **more}
    return {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}


@pytest.mark.parametrize("no_new_privileges", [False, True])
def test_profile_holds(bundle: Bundle, no_new_privileges: bool) -> None:
    """A refused call fails with the errno of the rule, whichever way the filter was loaded."""
    bundle.process["noNewPrivileges"] = no_new_privileges
    bundle.linux["seccomp"] = refuse(*MKDIR, errnoRet=errno.ENETDOWN)
    bundle.shell("mkdir /tmp/x; grep -E 'Seccomp:|NoNewPrivs:' /proc/self/status")
    result = bundle.run(check=False)
    assert "Network is down" in result.stderr
    assert result.lines() == [f"NoNewPrivs:\t{int(no_new_privileges)}", "Seccomp:\t2"]


def test_profile_needs_to_allow_nothing_of_ours(bundle: Bundle) -> None:
    """With no_new_privs a profile is loaded so late that it holds for the program alone."""
    program = bundle.rootfs / "bin/tiny"
    program.write_bytes(_program_that_exits(42))
    program.chmod(0o755)
    bundle.process["noNewPrivileges"] = True
    allowed = {"names": ["execve", "exit_group"], "action": "SCMP_ACT_ALLOW"}
    bundle.linux["seccomp"] = {"defaultAction": "SCMP_ACT_KILL_PROCESS", "syscalls": [allowed]}
    assert bundle.run(args=["/bin/tiny"], check=False).returncode == 42


def _program_that_exits(status: int) -> bytes:
    """Return an ELF file for x86_64 that calls exit_group(status) and nothing else."""
    if os.uname().machine != "x86_64":
        pytest.skip("has code for x86_64")
    code = bytes.fromhex("bf") + struct.pack("<I", status) + bytes.fromhex("b8e70000000f05")
    size = 120 + len(code)
    identity = b"\x7fELF" + bytes((2, 1, 1)) + bytes(9)
    header = struct.pack("<16sHHIQQQIHHHHHH", identity, 2, 62, 1, 0x400078, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return header + struct.pack("<IIQQQQQQ", 1, 5, 0, 0x400000, 0x400000, size, size, 4096) + code


def test_killed_by_profile(bundle: Bundle) -> None:
    """The status of a program that its filter killed is that of SIGSYS."""
    rule = {"names": list(MKDIR), "action": "SCMP_ACT_KILL_PROCESS"}
    bundle.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}
    bundle.shell("(mkdir /tmp/x); echo $?")
    assert bundle.run(check=False).lines()[-1] == "159"


def test_second_container_reads_the_cache(bundle: Bundle) -> None:
    """The compiled profile lies beside the state, for root only, and is not taken for a container."""
    bundle.linux["seccomp"] = refuse(*MKDIR)
    for _ in range(2):
        bundle.run(args=["true"])
    (entry,) = (bundle.state / ".cache").iterdir()
    assert entry.stat().st_mode & 0o077 == 0
    assert bundle.call("list", "--quiet").stdout == ""


def test_annotation_loads_a_compiled_program(bundle: Bundle) -> None:
    """run.oci.seccomp_bpf_data is loaded as it is."""
    allow_all = struct.pack("=HBBI", 6, 0, 0, 0x7FFF0000)
    bundle.config["annotations"] = {"run.oci.seccomp_bpf_data": base64.b64encode(allow_all).decode()}
    bundle.shell("grep Seccomp: /proc/self/status")
    assert bundle.run().stdout == "Seccomp:\t2\n"


def test_program_the_kernel_refuses_is_an_error(bundle: Bundle) -> None:
    """A bad program is told as such; nothing runs without its filter."""
    nonsense = struct.pack("=HBBI", 0xFFFF, 0, 0, 0)
    bundle.config["annotations"] = {"run.oci.seccomp_bpf_data": base64.b64encode(nonsense).decode()}
    for no_new_privileges in (False, True):
        bundle.process["noNewPrivileges"] = no_new_privileges
        result = bundle.run(args=["echo", "ran"], check=False)
        assert result.returncode in (1, 126)  # while it is created, or when it starts
        assert "seccomp" in result.stderr and "nvalid argument" in result.stderr
        assert "ran" not in result.stdout
        assert bundle.leftovers() == []


def test_wrong_profile_is_refused_by_key(bundle: Bundle) -> None:
    """The message says which key of config.json is wrong, and nothing is left."""
    bundle.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"]}]}
    result = bundle.create(check=False)
    assert result.returncode == 1
    assert "linux.seccomp.syscalls[0].action is missing" in result.stderr


class Agent:
    """An agent that answers every call it is asked about with ENOMEDIUM."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.messages: list[dict[str, Any]] = []
        self.calls: list[int] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(path))
        self._socket.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Take no more containers."""
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                data, descriptors, _, _ = socket.recv_fds(connection, 65536, 4)
                while part := connection.recv(65536):
                    data += part
            self.messages.append(json.loads(data))
            threading.Thread(target=self._answer, args=(descriptors[0],), daemon=True).start()

    def _answer(self, listener: int) -> None:
        import fcntl

        receive, send = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_RECV and _SEND
        while True:
            notification = bytearray(80)
            try:
                fcntl.ioctl(listener, receive, notification)
                identity, number = struct.unpack_from("=Q8xi", notification)
                self.calls.append(number)
                fcntl.ioctl(listener, send, struct.pack("=QqiI", identity, 0, -errno.ENOMEDIUM, 0))
            except OSError:
                os.close(listener)
                return


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    """Give an agent; the path of its socket is longer than a socket address holds."""
    directory = tmp_path / ("long" * 20)
    directory.mkdir()
    here = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    found = Agent(Path(f"/proc/self/fd/{here}/agent"))
    found.path = directory / "agent"
    try:
        yield found
    finally:
        found.close()
        os.close(here)


def ask(agent_path: Path, *names: str) -> dict[str, Any]:
    """Return a profile that asks the agent about `names`."""
    rule = {"names": list(names), "action": "SCMP_ACT_NOTIFY"}
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": str(agent_path),
        "listenerMetadata": "about me",
        "syscalls": [rule],
    }


@pytest.mark.parametrize("no_new_privileges", [False, True])
def test_agent_is_asked(bundle: Bundle, agent: Agent, no_new_privileges: bool) -> None:
    """The agent gets the listener with the container's state, and its answer is the call's result."""
    bundle.process["noNewPrivileges"] = no_new_privileges
    bundle.linux["seccomp"] = ask(agent.path, *MKDIR)
    bundle.shell("mkdir /tmp/x")
    result = bundle.run(check=False)
    assert "No medium found" in result.stderr
    (message,) = agent.messages
    assert message["fds"] == ["seccompFd"]
    assert message["metadata"] == "about me"
    assert message["state"]["id"] == bundle.id
    assert message["state"]["status"] == "creating"
    assert message["pid"] == message["state"]["pid"] > 1


@pytest.mark.parametrize("no_new_privileges", [False, True])
def test_agent_asked_about_calls_that_we_need_does_not_hang(
    bundle: Bundle, agent: Agent, no_new_privileges: bool
) -> None:
    """The listener reaches the agent even if the first call of ours after loading is one it is asked about."""
    bundle.process["noNewPrivileges"] = no_new_privileges
    bundle.linux["seccomp"] = ask(agent.path, "sendto", "sendmsg", *MKDIR)
    bundle.shell("mkdir /tmp/x")
    bundle.run(check=False)
    assert len(agent.messages) == 1


def test_missing_agent_is_an_error(bundle: Bundle, tmp_path: Path) -> None:
    """Without its agent a container is not made."""
    bundle.linux["seccomp"] = ask(tmp_path / "nobody", *MKDIR)
    result = bundle.create(check=False)
    assert result.returncode == 1
    assert "failed to connect with seccomp agent" in result.stderr
    assert "nobody: no such file or directory" in result.stderr
    assert bundle.leftovers() == []


def test_unused_agent_is_not_looked_for(bundle: Bundle, tmp_path: Path) -> None:
    """listenerPath without SCMP_ACT_NOTIFY means nothing."""
    bundle.linux["seccomp"] = {**ask(tmp_path / "nobody"), "syscalls": []}
    bundle.run(args=["true"])


def test_default_profile_lets_ordinary_programs_work(bundle: Bundle) -> None:
    """Under our own profile a shell, pipes, files and processes work; new namespaces and mounts do not."""
    bundle.linux["seccomp"] = default.profile(bundle.process["capabilities"]["bounding"])
    bundle.process["capabilities"] = {}
    bundle.shell("mkdir /tmp/a; seq 3 | sort -r | head -n 1; (sleep 0; ls /tmp); unshare -U true 2>&1 | cat")
    lines = bundle.run().lines()
    assert lines[:2] == ["3", "a"]
    assert "Operation not permitted" in lines[2]


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS, errno.EINVAL])
def test_profile_that_knows_only_execve(bundle: Bundle, number: int) -> None:
    """A filter that is loaded early, and has never heard of execveat, does not stop the container."""
    bundle.process["noNewPrivileges"] = False
    bundle.linux["seccomp"] = refuse("execveat", errnoRet=number)
    assert bundle.run(args=["echo", "ran"]).stdout == "ran\n"


def test_exec_has_the_filter_too(bundle: Bundle) -> None:
    """A process that joins the container is bound as its first one."""
    bundle.linux["seccomp"] = refuse(*MKDIR)
    bundle.detach()
    assert "Operation not permitted" in bundle.exec("mkdir", "/tmp/x", check=False).stderr


@pytest.mark.parametrize("no_new_privileges", [False, True])
def test_exec_asks_the_agent(bundle: Bundle, agent: Agent, no_new_privileges: bool) -> None:
    """A process that joins has a listener of its own, sent with the state of a running container."""
    bundle.process["noNewPrivileges"] = no_new_privileges
    bundle.linux["seccomp"] = ask(agent.path, *MKDIR)
    bundle.detach()
    assert "No medium found" in bundle.exec("mkdir", "/tmp/x", check=False).stderr
    assert [message["state"]["status"] for message in agent.messages] == ["creating", "running"]
    assert agent.messages[1]["pid"] != agent.messages[0]["pid"]


def test_default_profile_of_spec_lets_live_and_refuses(bundle: Bundle) -> None:
    """`spec --seccomp`: ordinary programs run, making a namespace is refused though root asks."""
    bundle.save()
    bundle.call("spec", "--seccomp", "--file", str(bundle.directory / "with.json"))
    bundle.linux["seccomp"] = json.loads((bundle.directory / "with.json").read_text())["linux"]["seccomp"]
    bundle.shell(
        "ls / >/dev/null && echo lives; grep Seccomp: /proc/self/status; unshare -n true || echo refused"
    )
    assert bundle.run().lines() == ["lives", "Seccomp:\t2", "refused"]
