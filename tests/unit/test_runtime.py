# SPDX-License-Identifier: Apache-2.0
"""What `runtime` decides before it acts: sizes, a container's configuration, lookups; and what it must not import."""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runtime import cli, demo
from runtime.engine import bundle
from runtime.engine.wish import IdMap, Wish
from runtime.oci.cgroups.layout import Layout
from runtime.oci.commands import spec
from runtime.oci.config import check
from runtime.oci.process.capabilities import number
from runtime.oci.process.environment import candidates
from runtime.oci.seccomp.default import profile

ROOT = Path(__file__).parents[2]
V1 = Layout({"devices": "/c/devices", "memory": "/c/memory"}, "/c/unified")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("64m", 64 << 20),
        ("64M", 64 << 20),
        ("64mb", 64 << 20),
        ("1.5g", 3 << 29),
        ("2k", 2048),
        ("7b", 7),
    ],
)
def test_parse_size_reads_units(text: str, size: int) -> None:
    """Sizes are Docker's: bytes, or with b, k, m, g, t."""
    assert cli.parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "m", "-1", "0", "0.5b", "1x", "1 m m", "0x10", "1e3", "9" * 400, "9" * 20 + "t"]
)
def test_parse_size_refuses_nonsense(text: str) -> None:
    """What is no size is refused before anything is made."""
    with pytest.raises(argparse.ArgumentTypeError):
        cli.parse_size(text)


def _config(groups: Layout = V1, hidden: tuple[str, ...] = (), **changes: Any) -> dict[str, Any]:
    return bundle.configuration("id", Wish(("true",), **changes), hidden, groups)


def test_configuration_mounts_parents_before_children() -> None:
    """Every mount comes after the one its target lies in, and only files of the container's own /dev are devices."""
    mounts = _config()["mounts"]
    targets = [mount["destination"] for mount in mounts]
    for index, target in enumerate(targets):
        assert all(not other.startswith(target + "/") for other in targets[:index])
    assert targets[-2:] == ["/sys", "/sys/fs/cgroup"]
    assert "ro" in mounts[-1]["options"]


def test_configuration_in_a_user_namespace_asks_for_what_is_allowed() -> None:
    """devpts gets no group that is not mapped; with the host's network /sys is the host's, bound."""

    def mounts(**changes: Any) -> dict[str, dict[str, Any]]:
        return {mount["destination"]: mount for mount in _config(**changes)["mounts"]}

    one = (IdMap(0, 1000, 1),)
    planned = mounts(uid_map=one, gid_map=one, host_network=True)
    assert "gid=5" not in planned["/dev/pts"]["options"]
    assert planned["/sys"]["source"] == "/sys" and {"rbind", "ro"} <= set(planned["/sys"]["options"])
    assert "gid=5" in mounts()["/dev/pts"]["options"] and mounts()["/sys"]["type"] == "sysfs"
    linux = _config(uid_map=one, gid_map=one)["linux"]
    assert linux["uidMappings"] == [{"containerID": 0, "hostID": 1000, "size": 1}]
    assert {"type": "user"} in linux["namespaces"] and {"type": "network"} in linux["namespaces"]


def test_configuration_is_dockers_and_unionrts_default() -> None:
    """Docker's fourteen capabilities and filter; the masked and read-only paths are `unionrt spec`'s, with what we hide."""
    config, default = _config(hidden=("/secret",)), spec.default(rootless=False)
    assert config["linux"]["maskedPaths"] == [*default["linux"]["maskedPaths"], "/secret"]
    assert config["linux"]["readonlyPaths"] == default["linux"]["readonlyPaths"]
    assert config["linux"]["resources"]["devices"] == default["linux"]["resources"]["devices"]
    capabilities = config["process"]["capabilities"]
    mask = sum(
        1 << capability for name in capabilities["bounding"] if (capability := number(name)) is not None
    )
    assert mask == 0xA80425FB
    assert capabilities == dict.fromkeys(("bounding", "effective", "permitted"), capabilities["bounding"])
    assert config["linux"]["seccomp"] == profile(capabilities["bounding"])
    assert not config["process"]["noNewPrivileges"]
    assert _config(no_new_privileges=True)["process"]["noNewPrivileges"]
    check(config)


def test_configuration_without_device_rules_has_no_mknod() -> None:
    """Where neither a v1 controller nor v2 keeps devices away, a node made in the container would be as good as the host's."""
    apart = Layout({"memory": "/c/memory"}, "/c/unified")
    for groups, has in ((apart, False), (Layout({}, ""), False), (V1, True), (Layout({}, "/c"), True)):
        assert ("CAP_MKNOD" in _config(groups)["process"]["capabilities"]["bounding"]) == has


def test_candidates_are_execvps() -> None:
    """A name with a slash is taken as it is; an empty PATH element is the current directory."""
    assert candidates(b"a/b", {b"PATH": b"/bin"}) == [b"a/b"]
    assert candidates(b"x", {b"PATH": b"/bin::/usr/bin"}) == [b"/bin/x", b"./x", b"/usr/bin/x"]
    assert candidates(b"", {b"PATH": b"/bin"}) == []


def test_demo_tells_new_changed_and_removed(tmp_path: Path) -> None:
    """The demo's summary reads AUFS' marks of the rw branch."""
    base, branch = tmp_path / "base", tmp_path / "rw"
    (base / "etc").mkdir(parents=True)
    (base / "etc/old").touch()
    (branch / "etc").mkdir(parents=True)
    for name in ("etc/old", "etc/new", "etc/.wh.gone", ".wh..wh.aufs"):
        (branch / name).touch()
    found = list(demo._changes(branch, base))
    assert found == [("removed", "/etc/gone"), ("new", "/etc/new"), ("changed", "/etc/old")]


def test_container_processes_carry_no_event_loop() -> None:
    """What is loaded when the container is forked: no trio, no pyfuse3, no threads' pools, no subprocess."""
    code = "import runtime.cli, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = {
        "trio",
        "pyfuse3",
        "asyncio",
        "concurrent.futures",
        "subprocess",
        "unionfs.filesystem",
        "unionfs.server.process",
    }
    assert set(done.stdout.split()) & heavy == set()
