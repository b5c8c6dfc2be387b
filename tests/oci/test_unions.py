# SPDX-License-Identifier: Apache-2.0
"""A root and mounts of type `unionfs`: made in the container's namespaces, served by whoever listens, gone with the container."""

from pathlib import Path

import pytest

from tests.support.oci import Bundle, wait_until
from tests.support.unionserver import serving

pytestmark = pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="needs /dev/fuse")


def _union_root(bundle: Bundle) -> tuple[Path, str]:
    """Make the bundle's root a union of a new branch above its files; return the branch and the words for its server."""
    branch = bundle.directory / "rw"
    branch.mkdir()
    place = bundle.directory / "place"
    place.mkdir(mode=0o700)
    place.chmod(0o755)
    bundle.config["root"] = {"path": "place", "type": "unionfs", "source": "union.sock", "options": ["nodev"]}
    return branch, str(bundle.directory / "union.sock")


def test_root_of_type_unionfs_is_served_and_goes_with_the_container(bundle: Bundle) -> None:
    """Changes are in the rw branch, the layer and the host's mounts are as before, and the server ends with the container."""
    branch, socket = _union_root(bundle)
    bundle.shell("echo new >/etc/new; rm /etc/group; grep ' / ' /proc/mounts")
    with serving(Path(socket), 1, f"{branch}=rw", f"{bundle.rootfs}=ro") as server:
        result = bundle.run()
        assert server.stdout is not None and server.stdout.read() == "/\n"
    assert result.stdout.startswith("unionfs / fuse.unionfs rw,nodev,")
    assert (branch / "etc/new").read_text() == "new\n"
    assert (branch / "etc/.wh.group").exists()
    assert (bundle.rootfs / "etc/group").exists() and not (bundle.rootfs / "etc/new").exists()
    assert str(bundle.directory) not in Path("/proc/self/mountinfo").read_text()
    assert bundle.leftovers() == []


@pytest.mark.parametrize("readonly", [False, True])
def test_root_of_type_unionfs_obeys_readonly(bundle: Bundle, readonly: bool) -> None:
    """root.readonly holds for a union as for a directory."""
    branch, socket = _union_root(bundle)
    bundle.config["root"]["readonly"] = readonly
    bundle.shell("touch /new && echo made")
    with serving(Path(socket), 1, f"{branch}=rw", f"{bundle.rootfs}=ro"):
        result = bundle.run(check=False)
    assert (result.stdout, (branch / "new").exists()) == (("", False) if readonly else ("made\n", True))


def test_root_of_type_unionfs_in_a_user_namespace_keeps_the_containers_ids(bundle: Bundle) -> None:
    """The mount is the container's user namespace's: files have the ids that are used inside. Its directory is ours alone."""
    branch, socket = _union_root(bundle)
    bundle.directory.chmod(0o700)
    bundle.linux["namespaces"].append({"type": "user"})
    for kind in ("uidMappings", "gidMappings"):
        bundle.linux[kind] = [{"containerID": 0, "hostID": 200000, "size": 65536}]
    for kind in ("bounding", "effective", "permitted"):
        bundle.process["capabilities"][kind].append("CAP_CHOWN")
    bundle.shell("touch /made; chown 5:6 /made; stat -c %u:%g /made /etc/passwd")
    with serving(Path(socket), 1, f"{branch}=rw", f"{bundle.rootfs}=ro"):
        result = bundle.run()
    assert result.lines() == ["5:6", "0:0"]
    assert (branch / "made").stat().st_uid == 5


def test_mount_of_type_unionfs_shows_branches_in_the_container_only(bundle: Bundle) -> None:
    """A union beside the root; its target is made where it is missing."""
    branch, layer = bundle.directory / "rw", bundle.directory / "layer"
    for path in (branch, layer):
        path.mkdir()
    (layer / "low").write_text("low")
    bundle.mount("/data/union", type="unionfs", source="union.sock", options=["nosuid"])
    bundle.shell(
        "cat /data/union/low; echo high >/data/union/high; grep -c 'fuse.unionfs.*nosuid' /proc/mounts"
    )
    with serving(bundle.directory / "union.sock", 1, f"{branch}=rw", f"{layer}=ro") as server:
        assert bundle.run().stdout == "low1\n"
        assert server.stdout is not None and server.stdout.read() == "/data/union\n"
    assert (branch / "high").read_text() == "high\n"


def test_union_ends_with_a_creation_that_fails(bundle: Bundle) -> None:
    """The server hears of the end of a mount that no container came to have."""
    branch, socket = _union_root(bundle)
    bundle.mount("/proc/version", type="tmpfs")
    with serving(Path(socket), 1, f"{branch}=rw", f"{bundle.rootfs}=ro"):
        assert bundle.run(check=False).returncode == 1
    assert bundle.leftovers() == []


def test_union_whose_server_has_gone_leaves_no_container(bundle: Bundle) -> None:
    """A server that is killed ends the connection: nothing waits for it for ever."""
    branch, socket = _union_root(bundle)
    with serving(Path(socket), 1, f"{branch}=rw", f"{bundle.rootfs}=ro", status=-9) as server:
        bundle.detach(args=["sleep", "1000"])
        server.kill()
    assert bundle.exec("true", check=False).returncode != 0
    bundle.delete("--force")
    wait_until(lambda: bundle.leftovers() == [], "the container has gone")


@pytest.mark.parametrize("place", ["root", "mount"])
@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"type": "unionfs"}, "source is missing"),
        ({"type": "unionfs", "source": "nobody.sock"}, "nobody.sock: no such file or directory"),
    ],
)
def test_union_without_a_server_is_refused(
    bundle: Bundle, place: str, entry: dict[str, str], words: str
) -> None:
    """One line says which socket is missing, and nothing is left."""
    if place == "root":
        bundle.config["root"] = {"path": "rootfs", **entry}
    else:
        bundle.mount("/data", **entry)
    result = bundle.run(check=False)
    assert (result.returncode, words in result.stderr, len(result.stderr.splitlines())) == (1, True, 1), (
        result
    )
    assert bundle.leftovers() == []


def test_union_as_root_without_a_mount_namespace_is_refused(bundle: Bundle) -> None:
    """It would be mounted on the host."""
    bundle.config["root"] = {"path": "rootfs", "type": "unionfs", "source": "x"}
    bundle.config["mounts"] = []
    bundle.linux["maskedPaths"] = bundle.linux["readonlyPaths"] = []
    bundle.linux["namespaces"] = [entry for entry in bundle.linux["namespaces"] if entry["type"] != "mount"]
    result = bundle.run(check=False)
    assert "needs a mount namespace" in result.stderr
    bundle.config["root"]["type"] = "nonsense"
    assert "root.type 'nonsense' is not known" in bundle.run(check=False).stderr


def test_union_takes_a_socket_with_a_long_path(bundle: Bundle) -> None:
    """An address has 108 bytes; a path may have more."""
    branch, _ = _union_root(bundle)
    deep = bundle.directory / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    bundle.config["root"]["source"] = str(deep / "union.sock")
    bundle.shell("echo deep >/deep")
    with serving(deep / "union.sock", 1, f"{branch}=rw", f"{bundle.rootfs}=ro"):
        bundle.run()
    assert (branch / "deep").read_text() == "deep\n"
