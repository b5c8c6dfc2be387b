# SPDX-License-Identifier: Apache-2.0
"""Pseudo-links without a mount: the kernel may forget a file at any time, and its names must go on meaning one file."""

import os
from pathlib import Path

from unionfs.branches.branch import Branch
from unionfs.filesystem import UnionFilesystem
from unionfs.operations.create import Caller
from unionfs.options.aufs import Options

ROOT = Caller(os.geteuid(), os.getegid(), os.getpid())


def _open(root: Path, whiteout: str = "aufs") -> UnionFilesystem:
    return UnionFilesystem.open(
        [Branch(str(root / "B0"), "rw"), Branch(str(root / "B1"), "ro")],
        Options(fsync=False, whiteout=whiteout),
    )


def _write(filesystem: UnionFilesystem, name: bytes, data: bytes) -> None:
    node = filesystem.lookup(filesystem.node(1), name).node
    handle = filesystem.open_file(node, os.O_WRONLY, ROOT)
    filesystem.write(handle, 0, data)
    filesystem.release(handle)


def _read(filesystem: UnionFilesystem, name: bytes) -> bytes:
    node = filesystem.lookup(filesystem.node(1), name).node
    handle = filesystem.open_file(node, os.O_RDONLY, ROOT)
    try:
        return filesystem.read(handle, 0, 100)
    finally:
        filesystem.release(handle)


def test_lower_name_of_forgotten_plink_shows_the_copy(tmp_path: Path) -> None:
    """After a forget, a lower name is looked up anew and still leads to the copy, with the same number and link count."""
    (tmp_path / "B0").mkdir()
    (tmp_path / "B1").mkdir()
    (tmp_path / "B1/a").write_bytes(b"old")
    os.link(tmp_path / "B1/a", tmp_path / "B1/b")
    filesystem = _open(tmp_path)
    try:
        _write(filesystem, b"a", b"new")
        attributes = filesystem.lookup(filesystem.node(1), b"b")
        filesystem._union.nodes.release(attributes.node)
        again = filesystem.lookup(filesystem.node(1), b"b")
        assert (again.node.ino, again.nlink) == (attributes.node.ino, 2)
        assert _read(filesystem, b"b") == _read(filesystem, b"a") == b"new"
        _write(filesystem, b"b", b"NEW")
        assert _read(filesystem, b"a") == b"NEW"
    finally:
        filesystem.close()
    assert (tmp_path / "B0/a").stat().st_ino == (tmp_path / "B0/b").stat().st_ino


def test_plinks_of_a_killed_server_are_taken_up_again(tmp_path: Path) -> None:
    """A pseudo-link on disk is enough: names on lower branches show the copy after a crash."""
    (tmp_path / "B0").mkdir()
    (tmp_path / "B1").mkdir()
    (tmp_path / "B1/a").write_bytes(b"old")
    os.link(tmp_path / "B1/a", tmp_path / "B1/b")
    killed = _open(tmp_path)
    _write(killed, b"a", b"new")
    killed._copyups.close()
    killed._union.close()  # without the flush that close() makes
    filesystem = _open(tmp_path)
    try:
        assert _read(filesystem, b"b") == b"new"
    finally:
        filesystem.close()
    assert (tmp_path / "B0/b").read_bytes() == b"new"
    assert os.listdir(tmp_path / "B0/.wh..wh.plnk") == []


def test_flush_reaches_names_in_forgotten_directories(tmp_path: Path) -> None:
    """A directory with names to link outlasts the directories below it, of which the kernel forgot everything too."""
    (tmp_path / "B0").mkdir()
    (tmp_path / "B1/d/below").mkdir(parents=True)
    (tmp_path / "B1/a").write_bytes(b"old")
    os.link(tmp_path / "B1/a", tmp_path / "B1/d/b")
    filesystem = _open(tmp_path)
    try:
        _write(filesystem, b"a", b"new")
        assert filesystem.flush_plinks() == 1
        assert filesystem.counters()["nodes"] == 1
    finally:
        filesystem.close()
    assert (tmp_path / "B0/d/b").read_bytes() == b"new"
    assert os.listdir(tmp_path / "B0/.wh..wh.plnk") == []


def test_overlay_form_keeps_names_one_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    """Where overlayfs' form is written, hard links stay together too, and after umount the branch has no bookkeeping."""
    (tmp_path / "B0").mkdir()
    (tmp_path / "B1").mkdir()
    (tmp_path / "B1/a").write_bytes(b"old")
    os.link(tmp_path / "B1/a", tmp_path / "B1/b")
    os.utime(tmp_path / "B0", ns=(0, 0))
    filesystem = _open(tmp_path, "overlay")
    try:
        _write(filesystem, b"a", b"new")
        assert _read(filesystem, b"b") == b"new"
    finally:
        filesystem.close()
    assert sorted(os.listdir(tmp_path / "B0")) == ["a", "b"]
    assert (tmp_path / "B0").stat().st_mtime_ns == 0
    assert (tmp_path / "B0/a").samefile(tmp_path / "B0/b")


def test_number_of_a_plink_is_not_given_to_another_file(tmp_path: Path) -> None:
    """A file that cannot have its own number does not get that of a pseudo-linked copy which the kernel forgot."""
    (tmp_path / "B0").mkdir()
    (tmp_path / "B1").mkdir()
    (tmp_path / "B1/f").write_bytes(b"old")
    filesystem = _open(tmp_path)
    try:
        root = filesystem.node(1)
        filesystem.rename(root, b"f", root, b"moved")
        holder = filesystem.open_file(filesystem.lookup(root, b"moved").node, os.O_RDONLY, ROOT)
        for name in (b"n1", b"n2"):
            (tmp_path / "B0/.wh.f").unlink()
            filesystem.link(filesystem.lookup(root, b"f").node, root, name)
            filesystem.unlink(root, b"f")
            for node in list(filesystem._union.nodes):
                filesystem._union.nodes.release(node)
            assert _read(filesystem, name) == b"old"
        (tmp_path / "B0/.wh.f").unlink()
        filesystem.unlink(root, b"f")
        assert _read(filesystem, b"n1") == _read(filesystem, b"n2") == b"old"
        filesystem.release(holder)
    finally:
        filesystem.close()


def test_new_file_with_the_number_of_a_copied_one_is_no_name_of_its_copy(tmp_path: Path) -> None:
    """Both names of a copied lower file are removed directly and a new file gets its inode: it is not the pseudo-link."""
    (tmp_path / "B0").mkdir()
    (tmp_path / "B1").mkdir()
    (tmp_path / "B1/a").write_bytes(b"old")
    (tmp_path / "B1/b").hardlink_to(tmp_path / "B1/a")
    filesystem = _open(tmp_path)
    try:
        _write(filesystem, b"a", b"COPY")
        ino = (tmp_path / "B1/a").stat().st_ino
        for lower in (tmp_path / "B1/a", tmp_path / "B1/b"):
            lower.unlink()
        root = filesystem.node(1)
        for name in (b"new%d" % number for number in range(300)):
            attributes, handle = filesystem.create(root, name, 0o644, os.O_WRONLY, ROOT)
            filesystem.write(handle, 0, b"own")
            filesystem.release(handle)
            filesystem._union.nodes.release(attributes.node)
            assert _read(filesystem, name) == b"own"
            if attributes.status.st_ino == ino:
                break
        assert _read(filesystem, b"a") == b"COPY"
    finally:
        filesystem.close()
