# SPDX-License-Identifier: Apache-2.0
"""Hooks: each of the six at its point of a container's life, with the state on its input, and what its failure does."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.oci import Bundle

KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


def hook(script: str, **rest: Any) -> dict[str, Any]:
    """Return a hook that runs a shell script."""
    return {"path": "/bin/sh", "args": ["sh", "-c", script], **rest}


def test_hooks_run_in_order_with_the_state(bundle: Bundle, tmp_path: Path) -> None:
    """Each kind once and in order; the state has the status of the moment and the pid where it is known."""
    tmp_path.chmod(0o777)
    bundle.mount("/log", type="bind", source=str(tmp_path), options=["rbind", "rw"])
    bundle.config["hooks"] = {
        kind: [
            hook(
                f"cat > {'/log' if kind == 'startContainer' else tmp_path}/{kind}; echo {kind} >> "
                f"{'/log' if kind == 'startContainer' else tmp_path}/order"
            )
        ]
        for kind in KINDS
    }
    bundle.config["annotations"] = {"a": "b"}
    bundle.shell("echo program >> /log/order; sleep 0.3")
    bundle.run()
    order = (tmp_path / "order").read_text().split()
    # The poststart hooks and the program run at the same time.
    assert [word for word in order if word != "program"] == list(KINDS)
    assert order.index("program") > order.index("startContainer")
    states = {kind: json.loads((tmp_path / kind).read_text()) for kind in KINDS}
    for state in states.values():
        assert state["id"] == bundle.id
        assert state["bundle"] == str(bundle.directory)
        assert state["annotations"] == {"a": "b"}
    assert states["prestart"]["status"] == "created"  # as it was called when there was no "creating"
    for kind in KINDS[1:3]:
        assert states[kind]["status"] == "creating"
    assert states["poststart"]["status"] in ("running", "stopped")
    assert states["poststop"]["status"] == "stopped"
    assert states["createRuntime"]["pid"] > 1
    assert states["startContainer"]["pid"] == 1


def test_hooks_namespaces(bundle: Bundle, tmp_path: Path) -> None:
    """createRuntime in ours; createContainer in the container's with the host's files still in reach, before the pivot."""
    bundle.config["hooks"] = {
        "createRuntime": [hook(f"readlink /proc/self/ns/mnt > {tmp_path}/runtime")],
        "createContainer": [
            hook(f"readlink /proc/self/ns/uts > {tmp_path}/container; pwd >> {tmp_path}/container")
        ],
    }
    bundle.run(args=["readlink", "/proc/self/ns/uts"])
    assert (tmp_path / "runtime").read_text().strip() == os.readlink("/proc/self/ns/mnt")
    inside = (tmp_path / "container").read_text().splitlines()
    assert inside[0] in bundle.output()
    assert inside[1] == str(bundle.rootfs)


def test_hook_environment(bundle: Bundle, tmp_path: Path) -> None:
    """Its own if it names one, else ours; the program's for startContainer."""
    bundle.environment["MARK"] = "ours"
    bundle.process["env"] += ["MARK=program"]
    bundle.mount("/log", type="bind", source=str(tmp_path), options=["rbind", "rw"])
    bundle.config["hooks"] = {
        "createRuntime": [
            hook(f"echo $MARK > {tmp_path}/1"),
            hook(f"echo $MARK $OTHER > {tmp_path}/2", env=["OTHER=own"]),
        ],
        "startContainer": [hook("echo $MARK $HOME > /log/3")],
    }
    bundle.run(args=["true"])
    assert [(tmp_path / name).read_text() for name in "123"] == ["ours\n", "own\n", "program /root\n"]


def test_hook_arguments_are_exact(bundle: Bundle) -> None:
    """Also the first, which need not be the path."""
    bundle.config["hooks"] = {"startContainer": [{"path": "/bin/busybox", "args": ["cat", "/nosuchfile"]}]}
    result = bundle.run(args=["true"], check=False)
    assert result.returncode != 0
    assert "cat: can't open '/nosuchfile'" in result.stderr


@pytest.mark.parametrize("kind", KINDS[:5])
def test_hook_failure_destroys_the_container(bundle: Bundle, tmp_path: Path, kind: str) -> None:
    """The message names kind, number and reason; the program has not run (unless it was after it); poststop hooks run."""
    bundle.config["hooks"] = {
        kind: [{"path": "/bin/true"}, hook("echo told >&2; exit 3")],
        "poststop": [hook(f"touch {tmp_path}/poststop")],
    }
    bundle.shell("echo program; sleep 100")
    result = bundle.run(check=False)
    assert result.returncode != 0
    assert (
        f"error running hook #1: /bin/sh: {kind} hook failed with exit code 3, output: told" in result.stderr
    )
    if kind != "poststart":
        assert "program" not in result.stdout
    assert bundle.leftovers() == []
    assert (tmp_path / "poststop").exists()


def test_poststop_failure_is_a_warning(bundle: Bundle, tmp_path: Path) -> None:
    """The container is gone anyway, and the other hooks run."""
    bundle.config["hooks"] = {"poststop": [{"path": "/bin/false"}, hook(f"touch {tmp_path}/second")]}
    result = bundle.run(args=["true"])
    assert "error running hook #0: /bin/false: poststop hook failed" in result.stderr
    assert (tmp_path / "second").exists()


@pytest.mark.parametrize("kind", ["createRuntime", "createContainer", "startContainer"])
def test_hook_timeout_kills_it(bundle: Bundle, kind: str) -> None:
    """With all that it has started."""
    bundle.config["hooks"] = {kind: [hook("sleep 1000 & sleep 1000", timeout=1)]}
    result = bundle.run(args=["true"], check=False)
    assert result.returncode != 0
    assert f"error running hook #0: /bin/sh: {kind} hook killed after its timeout of 1 s" in result.stderr
    assert bundle.leftovers() == []


def test_hook_within_its_timeout(bundle: Bundle) -> None:
    """One that ends in time is not harmed by having a limit, nor by a child that stays and keeps its output open."""
    bundle.config["hooks"] = {"createRuntime": [hook("sleep 0.5 & exit 0", timeout=30)]}
    bundle.run(args=["true"])


def test_hook_that_writes_much_and_reads_nothing(bundle: Bundle) -> None:
    """Neither blocks us."""
    bundle.config["annotations"] = {f"key{n}": "x" * 1000 for n in range(300)}
    bundle.config["hooks"] = {"createRuntime": [hook("head -c 1000000 /dev/zero")]}
    bundle.run(args=["true"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"path": "true"},
        {"args": ["x"]},
        {"path": "/bin/true", "timeout": 0},
        {"path": "/bin/true", "env": ["A"]},
    ],
)
def test_hook_wrong_is_refused(bundle: Bundle, wrong: dict[str, Any]) -> None:
    """Before anything is made, by the name of the key."""
    bundle.config["hooks"] = {"poststop": [wrong]}
    result = bundle.run(args=["true"], check=False)
    assert result.returncode == 1
    assert "hooks.poststop[0]" in result.stderr


def test_hook_missing_program(bundle: Bundle) -> None:
    """On the host and in the container."""
    for kind in ("createRuntime", "startContainer"):
        bundle.config["hooks"] = {kind: [{"path": "/no/such/program"}]}
        result = bundle.run(args=["true"], check=False)
        assert f"error running hook #0: /no/such/program: {kind} hook failed" in result.stderr
        assert "no such file or directory" in result.stderr


def test_hook_in_the_container_never_meets_the_interpreter(bundle: Bundle) -> None:
    """A hook that is a script of /proc/self/exe runs the sealed stub, not Python (CVE-2019-5736)."""
    (bundle.rootfs / "evil").write_text("#!/proc/self/exe\nopen('/tmp/ran', 'w')\n")
    (bundle.rootfs / "evil").chmod(0o755)
    bundle.config["hooks"] = {"startContainer": [{"path": "/evil"}]}
    assert bundle.run(args=["true"], check=False).returncode != 0
    assert not (bundle.rootfs / "tmp/ran").exists()


def test_hook_has_no_descriptor_of_ours(bundle: Bundle, tmp_path: Path) -> None:
    """Only the standard three, in every namespace."""
    script = "ls -l /proc/self/fd >"
    bundle.mount("/log", type="bind", source=str(tmp_path), options=["rbind", "rw"])
    bundle.config["hooks"] = {
        "createRuntime": [hook(f"{script} {tmp_path}/1; true")],
        "createContainer": [hook(f"{script} {tmp_path}/2; true")],
        "startContainer": [hook(f"{script} /log/3; true")],
    }
    bundle.run(args=["true"])
    for name in "123":
        lines = [line.split() for line in (tmp_path / name).read_text().splitlines()[1:]]
        # Two are of the program that lists them and of the shell, which keeps its own output.
        found = {line[8] for line in lines if "->" in line and not line[-1].startswith("/proc/")}
        assert found - {"10"} == {"0", "1", "2"}, lines
