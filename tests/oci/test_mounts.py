# SPDX-License-Identifier: Apache-2.0
"""Mounts of the config: each option does what it says, in the order of the list."""

import os
from pathlib import Path

import pytest

from tests.support.mounts import map_users, seen
from tests.support.oci import Bundle


def test_mount_attributes_are_the_mounts(bundle: Bundle) -> None:
    """Words for the mount, for the filesystem and unknown ones each arrive where they belong."""
    bundle.mount(
        "/t", type="tmpfs", source="named", options=["nosuid", "noexec", "noatime", "size=64k", "mode=700"]
    )
    mount = seen(bundle)["/t"]
    assert {"nosuid", "noexec", "noatime", "rw"} <= mount.options
    assert {"size=64k", "mode=700"} <= mount.data


def test_mount_nosymfollow_keeps_links_from_being_followed(bundle: Bundle) -> None:
    """`nosymfollow` is an attribute, and the kernel obeys it."""
    bundle.mount("/t", type="tmpfs", options=["nosymfollow"])
    bundle.shell("ln -s /etc /t/link; ls /t/link/ 2>&1")
    assert "Too many levels" in bundle.run(check=False).stdout


def test_mount_readonly_tmpfs_takes_later_mounts(bundle: Bundle) -> None:
    """A read-only tmpfs is sealed when everything is mounted, as the mount points in it must be made."""
    bundle.mount("/t", type="tmpfs", options=["ro"])
    bundle.mount("/t/below", type="tmpfs", options=["rw"])
    bundle.shell("touch /t/below/x && ! touch /t/x && echo right")
    assert bundle.run().lines() == ["right"]


def test_mount_tmpfs_keeps_mode_of_its_directory(bundle: Bundle) -> None:
    """Without `mode=` a tmpfs looks like the directory that it covers; a new one is open to all, as tmpfs is."""
    (bundle.rootfs / "private").mkdir(mode=0o700)
    bundle.mount("/private", type="tmpfs")
    bundle.mount("/new", type="tmpfs")
    bundle.shell("stat -c %a /private /new")
    assert bundle.run().lines() == ["700", "1777"]


def test_mount_long_overlay_is_mounted(bundle: Bundle) -> None:
    """Parameters longer than fsconfig takes are no obstacle."""
    layers = [bundle.directory / f"layer-{'x' * 100}-{number}" for number in range(5)]
    for number, layer in enumerate(layers):
        layer.mkdir()
        (layer / str(number)).touch()
    bundle.mount(
        "/o", type="overlay", source="overlay", options=["lowerdir=" + ":".join(map(str, layers)), "nodev"]
    )
    assert "nodev" in seen(bundle)["/o"].options
    bundle.shell("ls /o")
    assert bundle.run().lines() == list("01234")


def test_mount_unknown_parameter_names_it(bundle: Bundle) -> None:
    """The error tells which mount and what the kernel does not know."""
    bundle.mount("/t", type="tmpfs", options=["nonsense=1"])
    result = bundle.run(check=False)
    assert result.returncode == 1
    assert "tmpfs on /t" in result.stderr and "nonsense" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_mount_unknown_type_says_so(bundle: Bundle) -> None:
    """A type that the kernel has not is told."""
    bundle.mount("/t", type="nosuchfs")
    result = bundle.run(check=False)
    assert result.returncode == 1 and "mount nosuchfs on /t" in result.stderr


def test_mount_tmpcopyup_shows_what_it_covers(bundle: Bundle) -> None:
    """The tmpfs starts with a copy, owners, modes, links and nodes included, and what is changed stays in it."""
    data = bundle.rootfs / "data"
    (data / "sub").mkdir(parents=True)
    (data / "sub/file").write_text("text")
    (data / "sub/file").chmod(0o640)
    os.chown(data / "sub/file", 0, 6)
    (data / "link").symlink_to("sub/file")
    os.mkfifo(data / "pipe")
    bundle.mount("/data", type="tmpfs", options=["tmpcopyup"])
    bundle.shell(
        "cd /data; cat link; echo; stat -c '%a %u %g' sub/file; test -p pipe && echo pipe; echo new > sub/file"
    )
    assert bundle.run().lines() == ["text", "640 0 6", "pipe"]
    assert (data / "sub/file").read_text() == "text"


def test_bind_relative_source_is_in_the_bundle(bundle: Bundle) -> None:
    """A relative source is the bundle's."""
    (bundle.directory / "shared").write_text("hello")
    bundle.mount("/a/b/file", type="bind", source="shared", options=["bind"])
    bundle.shell("cat /a/b/file")
    assert bundle.run().stdout == "hello"


def test_bind_is_decided_by_the_option(bundle: Bundle) -> None:
    """The option makes a mount a bind, whatever its type says."""
    bundle.mount("/mnt", type="tmpfs", source="/etc", options=["rbind", "ro"])
    bundle.mount("/mnt2", source="/etc", options=["bind", "ro"])
    bundle.shell("test -e /mnt/passwd && test -e /mnt2/passwd && ! touch /mnt/x /mnt2/x")
    bundle.run()


def test_bind_ro_is_for_the_top_rro_for_all(bundle: Bundle) -> None:
    """`ro` leaves mounts below as they are, `rro` does not; so with the other recursive words."""
    source = bundle.directory / "source"
    (source / "sub").mkdir(parents=True)
    bundle.mount("/s", type="bind", source=str(source), options=["bind"])
    bundle.mount("/s/sub", type="tmpfs")
    for number, word in enumerate(("ro", "rro", "rnosuid")):
        bundle.mount(f"/c{number}", type="bind", source=str(bundle.rootfs / "s"), options=["rbind", word])
    found = seen(bundle)
    assert "ro" in found["/c0"].options and "rw" in found["/c0/sub"].options
    assert "ro" in found["/c1"].options and "ro" in found["/c1/sub"].options
    assert "nosuid" in found["/c2"].options and "nosuid" in found["/c2/sub"].options


def test_bind_keeps_flags_of_its_source(bundle: Bundle) -> None:
    """A word adds or drops one flag; the others stay as the source has them."""
    bundle.mount("/s", type="tmpfs", options=["nosuid", "nodev", "noexec"])
    bundle.mount("/d", type="bind", source=str(bundle.rootfs / "s"), options=["bind", "ro", "exec"])
    assert seen(bundle)["/d"].options >= {"ro", "nosuid", "nodev"}
    assert "noexec" not in seen(bundle)["/d"].options


def test_bind_missing_source_is_told(bundle: Bundle) -> None:
    """The words that engines look for are in the message."""
    bundle.mount("/mnt", type="bind", source="/no/such/source", options=["bind"])
    result = bundle.run(check=False)
    assert result.returncode == 1
    assert "/no/such/source" in result.stderr and "no such file or directory" in result.stderr


def test_bind_copy_symlink_makes_the_link(bundle: Bundle) -> None:
    """`copy-symlink` shows the link itself, `src-nofollow` binds it."""
    (bundle.directory / "link").symlink_to("/target")
    bundle.mount("/x/copied", type="bind", source="link", options=["bind", "copy-symlink"])
    bundle.shell("readlink /x/copied")
    assert bundle.run().lines() == ["/target"]


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["rprivate"], ""),
        (["private"], ""),
        (["rshared"], "shared:"),
        (["unbindable"], "unbindable"),
        (["runbindable"], "unbindable"),
    ],
)
def test_mount_propagation_is_set(bundle: Bundle, words: list[str], shown: str) -> None:
    """Each propagation word is visible in mountinfo."""
    bundle.mount("/t", type="tmpfs", options=words)
    mount = seen(bundle)["/t"]
    assert mount.propagation.startswith(shown) and bool(mount.propagation) == bool(shown)


def test_mount_remount_changes_what_is_there(bundle: Bundle) -> None:
    """`remount` changes the filesystem and the mount, without a new one."""
    bundle.mount("/dev/shm", type="tmpfs", options=["remount", "ro", "size=128k"])
    found = seen(bundle)
    assert "ro" in found["/dev/shm"].options and "size=128k" in found["/dev/shm"].data


def test_mount_options_only_change_propagation(bundle: Bundle) -> None:
    """A mount of type none without a source changes what is there."""
    bundle.mount("/dev/shm", type="none", options=["rshared", "nodev"])
    assert seen(bundle)["/dev/shm"].propagation.startswith("shared:")


def test_mounts_are_made_in_order(bundle: Bundle) -> None:
    """A later mount covers an earlier one."""
    bundle.mount("/t", type="tmpfs", options=["size=64k"])
    bundle.mount("/t", type="tmpfs", options=["size=128k"])
    assert "size=128k" in seen(bundle)["/t"].data


def _ids(first: int) -> list[dict[str, int]]:
    return [{"containerID": 0, "hostID": first, "size": 10}]


def test_idmap_shows_other_owners(bundle: Bundle) -> None:
    """An idmapped bind shows the files with the mapped owners, and files made in it belong to the unmapped ones."""
    source = bundle.directory / "source"
    source.mkdir()
    (source / "file").touch()
    bundle.mount(
        "/m", type="bind", source=str(source), options=["bind", "idmap"],
        uidMappings=_ids(1000), gidMappings=_ids(2000),
    )  # fmt: skip
    bundle.shell("stat -c '%u %g' /m/file")
    assert bundle.run().lines() == ["1000 2000"]


def test_idmap_without_ids_takes_the_containers(bundle: Bundle) -> None:
    """In a user namespace the mount of a host directory looks and behaves as the container's own."""
    map_users(bundle)
    source = bundle.directory / "source"
    source.mkdir()
    (source / "file").touch()
    bundle.mount("/m", type="bind", source=str(source), options=["rbind", "ridmap"])
    bundle.shell("stat -c '%u %g' /m/file; touch /m/new")
    assert bundle.run().lines() == ["0 0"]
    assert (source / "new").stat().st_uid == 0


def test_idmap_of_a_filesystem_is_refused(bundle: Bundle) -> None:
    """Only a bind can be idmapped; the error says so before anything is made."""
    bundle.mount("/t", type="tmpfs", uidMappings=_ids(0), gidMappings=_ids(0))
    result = bundle.run(check=False)
    assert result.returncode == 1 and "bind" in result.stderr


def test_user_namespace_mounts_everything(bundle: Bundle) -> None:
    """proc, sysfs, devpts, mqueue and cgroup are mounted with a user namespace too, devices are bound."""
    map_users(bundle)
    bundle.shell(
        "echo x > /dev/null && head -c1 /dev/zero | wc -c && ls /sys/class >/dev/null && ls /proc/1 >/dev/null"
    )
    assert bundle.run().lines() == ["1"]
    found = seen(bundle)
    assert found["/dev/null"].kind == "devtmpfs" or found["/dev/null"].root.endswith("/null")


def test_user_namespace_without_network_binds_sys_read_only(bundle: Bundle) -> None:
    """sysfs cannot be mounted then; the host's is shown, and nothing of it can be written (CVE-2023-25809)."""
    map_users(bundle)
    bundle.linux["namespaces"] = [entry for entry in bundle.linux["namespaces"] if entry["type"] != "network"]
    bundle.config["mounts"] = [
        entry for entry in bundle.config["mounts"] if entry["destination"] != "/sys/fs/cgroup"
    ]
    found = seen(bundle)
    assert found["/sys"].kind == "sysfs"
    for path, mount in found.items():
        if path == "/sys" or path.startswith("/sys/"):
            assert "ro" in mount.options, path


def test_user_namespace_keeps_locked_flags(bundle: Bundle, tmp_path: Path) -> None:
    """A flag that the outer namespace has locked stays, and asking to drop it is no error."""
    map_users(bundle)
    bundle.mount("/mnt", type="bind", source="/proc/sys", options=["bind", "rw"])
    bundle.mount("/mnt2", type="bind", source="/dev/shm", options=["bind", "ro", "noatime"])
    assert "ro" in seen(bundle)["/mnt2"].options


def test_user_namespace_binds_what_only_root_reaches(bundle: Bundle) -> None:
    """A source below a directory of mode 0700 is opened by the parent."""
    map_users(bundle)
    hidden = bundle.directory / "hidden"
    (hidden / "source").mkdir(parents=True)
    (hidden / "source/file").write_text("found")
    hidden.chmod(0o700)
    bundle.mount("/m", type="bind", source="hidden/source", options=["rbind", "ro"])
    bundle.shell("cat /m/file")
    assert bundle.run().stdout == "found"


def test_cgroup_mount_shows_own_group(bundle: Bundle) -> None:
    """With a cgroup namespace or without, the container sees its own group as the root, read-only."""
    for own in (True, False):
        if not own:
            bundle.linux["namespaces"] = [
                entry for entry in bundle.linux["namespaces"] if entry["type"] != "cgroup"
            ]
        mounts = [mount for mount in seen(bundle).values() if mount.kind in ("cgroup", "cgroup2")]
        assert mounts
        for mount in mounts:
            assert "ro" in mount.options
            assert mount.root == ("/" if own else bundle.linux["cgroupsPath"]) or mount.data & {
                "name=systemd"
            }


def test_mounts_need_a_mount_namespace(bundle: Bundle) -> None:
    """Without a mount namespace nothing is mounted, neither on the host nor elsewhere, and a warning says so."""
    bundle.linux["namespaces"] = [entry for entry in bundle.linux["namespaces"] if entry["type"] != "mount"]
    before = Path("/proc/self/mountinfo").read_text()
    result = bundle.run(args=["/bin/ls", "/proc"])
    assert result.stdout == "" and "mount namespace" in result.stderr
    assert Path("/proc/self/mountinfo").read_text() == before


def test_bind_src_nofollow_binds_the_link_itself(bundle: Bundle) -> None:
    """`src-nofollow` shows a link of the host as a link."""
    (bundle.directory / "link").symlink_to("/some/target")
    (bundle.rootfs / "place").symlink_to("elsewhere")
    bundle.mount("/place", type="bind", source="link", options=["bind", "src-nofollow"])
    bundle.shell("readlink /place")
    assert bundle.run().lines() == ["/some/target"]
