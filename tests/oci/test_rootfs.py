# SPDX-License-Identifier: Apache-2.0
"""The container's root, devices, masks and kernel settings."""

import os
from pathlib import Path

import pytest

from tests.support.mounts import SHOW, map_users, seen
from tests.support.oci import Bundle

_MOUNTINFO = Path("/proc/self/mountinfo")


def test_root_shows_nothing_of_the_host(bundle: Bundle) -> None:
    """After the pivot only the container's mounts are there; the host's are gone, also from mountinfo."""
    for options in ([], ["--no-pivot"]):
        bundle.shell("cat /proc/self/mountinfo | cut -d' ' -f5 | sort")
        paths = bundle.run(*options).lines()
        assert "/" in paths and "/proc" in paths
        assert not [path for path in paths if path.startswith(("/home", "/mnt", str(bundle.directory)))]


def test_root_readonly_leaves_mounts_writable(bundle: Bundle) -> None:
    """`root.readonly` is for the root, not for what is mounted in it."""
    bundle.config["root"]["readonly"] = True
    bundle.mount("/var/tmp", type="tmpfs")
    bundle.shell("touch /var/tmp/x /dev/x && ! touch /x && echo right")
    assert bundle.run().lines() == ["right"]


def test_root_missing_is_told(bundle: Bundle) -> None:
    """A root that is not there is named before anything is made."""
    bundle.config["root"]["path"] = "nowhere"
    result = bundle.run(check=False)
    assert result.returncode == 1 and "nowhere" in result.stderr


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("", ""),
        ("private", ""),
        ("rslave", ""),
        ("shared", "shared:"),
        ("rshared", "shared:"),
        ("unbindable", "unbindable"),
    ],
)
def test_root_propagation_is_set(bundle: Bundle, word: str, shown: str) -> None:
    """rootfsPropagation is how the container's root passes mounts on."""
    bundle.linux["rootfsPropagation"] = word
    root = seen(bundle)["/"]
    assert root.propagation.startswith(shown)
    assert shown or not root.propagation.startswith(("shared", "unbindable"))


def test_root_mounts_do_not_reach_the_host(bundle: Bundle) -> None:
    """Whatever the propagation, the container's mounts are not seen outside."""
    before = _MOUNTINFO.read_text()
    for word in ("", "rslave", "rshared"):
        bundle.linux["rootfsPropagation"] = word
        bundle.detach()
        assert _MOUNTINFO.read_text() == before
        bundle.delete("--force")


def test_dev_has_default_nodes_and_links(bundle: Bundle) -> None:
    """The nodes and links that every container may rely on."""
    bundle.shell(
        "cd /dev; stat -c '%n %a %t:%T' null zero full random urandom tty; for link in fd stdin stdout stderr ptmx; do"
        " echo $link $(readlink $link); done; test -e console && echo console"
    )
    assert bundle.run(check=False).lines() == [
        "null 666 1:3", "zero 666 1:5", "full 666 1:7", "random 666 1:8", "urandom 666 1:9", "tty 666 5:0",
        "fd /proc/self/fd", "stdin /proc/self/fd/0", "stdout /proc/self/fd/1", "stderr /proc/self/fd/2", "ptmx pts/ptmx",
    ]  # fmt: skip


def test_devices_of_the_config_are_made(bundle: Bundle) -> None:
    """Type, number, mode and owner are the config's; a directory on the way is made; no umask applies."""
    bundle.linux["devices"] = [
        {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o622, "uid": 3, "gid": 4},
        {"path": "/dev/block/disk", "type": "b", "major": 7, "minor": 200},
        {"path": "/run/pipe", "type": "p", "fileMode": 0o600},
        {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600},
    ]
    bundle.shell("stat -c '%n %F %a %t:%T %u:%g' /dev/fuse /dev/block/disk /run/pipe /dev/null")
    assert bundle.run().lines() == [
        "/dev/fuse character special file 622 a:e5 3:4",
        "/dev/block/disk block special file 666 7:c8 0:0",
        "/run/pipe fifo 600 0:0 0:0",
        "/dev/null character special file 600 1:3 0:0",
    ]


def test_devices_in_a_user_namespace_are_the_configs(bundle: Bundle) -> None:
    """Where the container's root may not make nodes the parent does: with the mode and owner that the config gives."""
    map_users(bundle)
    bundle.linux["devices"] = [
        {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 3, "gid": 4},
        {"path": "/dev/mine", "type": "c", "major": 1, "minor": 5},
    ]
    bundle.shell("stat -c '%a %t:%T %u:%g' /dev/fuse; head -c1 /dev/mine | wc -c")
    assert bundle.run().lines() == ["640 a:e5 3:4", "1"]


def test_dev_bound_from_the_host_is_left_alone(bundle: Bundle) -> None:
    """In a /dev that the config binds nothing is made."""
    dev = bundle.directory / "dev"
    dev.mkdir()
    os.mknod(dev / "null", 0o20666, os.makedev(1, 3))
    mounts = bundle.config["mounts"]
    bundle.config["mounts"] = [entry for entry in mounts if not entry["destination"].startswith("/dev")]
    bundle.mount("/dev", type="bind", source="dev", options=["bind"])
    bundle.shell("ls /dev")
    assert bundle.run().lines() == ["null"]


def test_masked_paths_are_empty(bundle: Bundle) -> None:
    """A file reads as nothing, a directory has nothing, what is missing is no error."""
    (bundle.rootfs / "file").write_text("secret")
    (bundle.rootfs / "directory").mkdir()
    (bundle.rootfs / "directory/inner").touch()
    bundle.linux["maskedPaths"] += ["/file", "/directory", "/no/such/path", "/file/not/a/directory"]
    bundle.shell("cat /file; ls -A /directory; ! touch /directory/x 2>/dev/null && echo end")
    assert bundle.run().lines() == ["end"]


def test_masked_directories_share_one_filesystem(bundle: Bundle) -> None:
    """All hidden directories show the same empty tmpfs, so that there is one to make and to destroy."""
    names = [f"/hidden{number}" for number in range(10)]
    for name in names:
        (bundle.rootfs / name[1:]).mkdir()
    bundle.linux["maskedPaths"] = names
    bundle.shell("stat -c %d " + " ".join(names))
    assert len(set(bundle.run().lines())) == 1


def test_masked_root_less_null_is_told(bundle: Bundle) -> None:
    """Hiding a file needs a null device; the error names it where the config's own /dev has none."""
    (bundle.directory / "dev").mkdir()
    mounts = bundle.config["mounts"]
    bundle.config["mounts"] = [entry for entry in mounts if not entry["destination"].startswith("/dev")]
    bundle.mount("/dev", type="bind", source="dev", options=["bind"])
    result = bundle.run(args=["true"], check=False)
    assert result.returncode == 1 and "/dev/null" in result.stderr


def test_readonly_paths_cannot_be_written(bundle: Bundle) -> None:
    """A path and all that is mounted below it are read-only; missing ones are no error."""
    (bundle.rootfs / "fixed").mkdir()
    bundle.mount("/fixed/below", type="tmpfs")
    bundle.linux["readonlyPaths"] += ["/fixed", "/etc/passwd", "/missing"]
    bundle.shell(
        "! touch /fixed/x && ! touch /fixed/below/x && ! touch /etc/passwd && touch /etc/y && echo right"
    )
    assert bundle.run().lines() == ["right"]
    bundle.shell(SHOW)
    assert sum(" /proc/sys " in line for line in bundle.run().lines()) == 1


def test_sysctl_is_set_in_own_namespaces(bundle: Bundle) -> None:
    """Settings of the network and IPC namespaces have the config's values."""
    bundle.linux["sysctl"] = {"net.ipv4.ip_forward": "1", "kernel.msgmax": "9000", "fs.mqueue.msg_max": "20"}
    bundle.shell("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax /proc/sys/fs/mqueue/msg_max")
    assert bundle.run().lines() == ["1", "9000", "20"]


@pytest.mark.parametrize("key", ["kernel.panic", "vm.swappiness", "kernel.hostname", "net/../kernel/panic"])
def test_sysctl_of_the_machine_is_refused(bundle: Bundle, key: str) -> None:
    """A setting that would change the host is refused by name."""
    bundle.linux["sysctl"] = {key: "1"}
    result = bundle.run(args=["true"], check=False)
    assert result.returncode == 1 and key in result.stderr


def test_sysctl_missing_is_told_by_its_key(bundle: Bundle) -> None:
    """The error names the key as the config has it."""
    bundle.linux["sysctl"] = {"net.no.such": "1"}
    result = bundle.run(args=["true"], check=False)
    assert result.returncode == 1 and "net.no.such" in result.stderr


def test_dry_run_tells_mounts_in_order(bundle: Bundle) -> None:
    """`run --dry-run` lists what is mounted, made, hidden, in order, and does nothing."""
    bundle.mount("/data", type="bind", source="/etc", options=["rbind", "ro"])
    bundle.save()
    text = bundle.call("run", "--dry-run", bundle.id).stdout
    order = [
        "mount proc on /proc",
        "bind /etc on /data (rbind,ro)",
        "make the device /dev/null",
        "as /",
        "hide /proc/kcore",
    ]
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    assert not (bundle.rootfs / "data").exists()
