# SPDX-License-Identifier: Apache-2.0
"""A branch whose filesystem goes (its server is killed, its host cannot be reached) takes nothing of the others with it."""

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import syscalls
from tests.support.tree import Tree
from tests.support.union import DEADLINE, Union, Workshop, eventually, program, unionfs

LOST = "the branch is lost: Transport endpoint is not connected"


class Losing:
    """A workshop with a union that serves a branch, until it is killed."""

    def __init__(self, shop: Workshop) -> None:
        self.shop = shop
        self._killed: list[Path] = []

    def serve(self, name: str, **tree: str) -> Union:
        """Return a union that holds `tree`, to be killed."""
        return self.shop.mount(f"br:{{{name}}}=ro,noplink", branches={name: dict(tree)})

    def kill(self, server: Union) -> None:
        """Kill a server; the dead mount stays where it was."""
        process, server.process = server.process, None
        assert process is not None
        process.kill()
        process.wait()
        self._killed.append(server.mnt)

    def close(self) -> None:
        for path in self._killed:
            syscalls.umount2(str(path), syscalls.MNT_DETACH)


@pytest.fixture
def losing(union: Workshop) -> Iterator[Losing]:
    """Give a workshop whose branches can be lost."""
    made = Losing(union)
    try:
        yield made
    finally:
        for each in union.unions:
            each.allowed_log += [r"the branch (is lost|answers again)", "first branch is not rw"]
        made.close()


def lost_between(losing: Losing) -> tuple[Union, Union]:
    """Return a union of which the branch between an upper and a lower one was lost, and that branch's server."""
    served = losing.serve("src", s="s", hidden="h")
    u = losing.shop.mount(
        "br:{top}=rw:{low}=ro:{base}=ro",
        changing="low",
        branches={
            "top": {"own": "own", "d/own": "own", "hidden": "top"},
            "low": served.mnt,
            "base": {"f": "b", "d/f": "f"},
        },
    )
    assert (u / "s").read_text() == "s"
    losing.kill(served)
    return u, served


def errno_of(action: object, *arguments: object) -> int | None:
    """Return the errno with which a call fails, None if it does not."""
    try:
        action(*arguments)  # type: ignore[operator]
    except OSError as error:
        return error.errno
    return None


def umount(u: Union) -> None:
    """Unmount by the command, which waits for the server."""
    process, u.process = u.process, None
    assert process is not None
    unionfs("umount", u.mnt)
    assert process.wait(DEADLINE) == 0


def listed(path: Path) -> tuple[set[str], int | None]:
    """Return the names that a listing gives, and the errno at its end."""
    found = set()
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                found.add(entry.name)
    except OSError as error:
        return found, error.errno
    return found, None


def test_read_branch_lost_others_stay_usable(losing: Losing) -> None:
    """Files of the branches above and below are read and written, the root answers; what only the lost one may have is EIO."""
    u, _ = lost_between(losing)
    assert (u / "own").read_text() == "own"
    os.statvfs(u.mnt)
    assert u.mnt.is_dir()
    assert (u / "hidden").read_text() == "top"
    (u / "own").write_text("changed")
    (u / "f").write_text("copied")
    assert (u.branches["top"] / "f").read_text() == "copied"
    assert (u / "d/f").read_text() == "f"
    assert errno_of((u / "s").read_text) == errno.EIO
    assert errno_of((u / "d/absent").stat) == errno.EIO


def test_list_branch_lost_shows_others_and_fails_at_end(losing: Losing) -> None:
    """A listing gives the names of the other branches, and is not taken for whole: rsync --delete would believe it."""
    u, _ = lost_between(losing)
    for _ in range(2):
        assert listed(u.mnt) == ({"own", "d", "hidden", "f"}, errno.EIO)
        assert listed(u / "d") == ({"own", "f"}, errno.EIO)
    done = subprocess.run(["ls", u.mnt], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["d", "f", "hidden", "own"]


def test_remove_branch_lost_hides_what_it_may_have(losing: Losing) -> None:
    """A removed name stays away when the branch is gone for good or is back; a directory that may have more in it stays."""
    u, _ = lost_between(losing)
    (u / "hidden").unlink()
    (u / "own").unlink()
    assert errno_of((u / "own").stat) == errno.ENOENT
    top = u.branches["top"]
    assert (top / ".wh.hidden").exists()
    assert (top / ".wh.own").exists()
    (u / "own").write_text("again")
    (u / "d/own").unlink()
    (u / "d/f").unlink()
    assert errno_of(os.rmdir, u / "d") == errno.EIO
    assert errno_of(os.rename, u / "d", u / "hidden") == errno.EIO


def test_make_branch_lost_below_opaque_directory_succeeds(losing: Losing) -> None:
    """Where the lost branch cannot have anything names are made, listed and known to be absent."""
    u, _ = lost_between(losing)
    (u.branches["top"] / "d/.wh..wh..opq").touch()
    (u / "d/new").mkdir()
    (u / "d/new/file").write_text("x")
    assert listed(u / "d") == ({"own", "new"}, None)
    assert errno_of((u / "d/absent").stat) == errno.ENOENT
    (u / "d/new/file").unlink()
    (u / "d/new").rmdir()


def test_status_branch_lost_names_it_and_its_reason(losing: Losing) -> None:
    """status, branch list, which and one line of the log say which branch is lost; a question about it does too."""
    u, served = lost_between(losing)
    for _ in range(3):
        assert errno_of((u / "s").read_text) == errno.EIO
    reasons = [row["lost"] for row in u.status()["branches"]]
    assert reasons == [None, "Transport endpoint is not connected", None]
    assert f"{served.mnt}=ro  (lost: Transport" in unionfs("branch", "list", u.mnt).stdout
    assert "the branch is lost" in unionfs("which", u / "f").stdout
    assert f"{served.mnt}: {LOST}" in unionfs("which", u / "s", check=False).stderr
    told = [line for line in u.log.read_text().splitlines() if "is lost" in line]
    assert len(told) == 1
    assert f"{served.mnt}: {LOST}" in told[0]


def test_delete_branch_lost_makes_the_union_whole(losing: Losing) -> None:
    """`branch del` takes the lost branch out, by the path it was given with; then there is nothing unknown any more."""
    u, served = lost_between(losing)
    unionfs("branch", "del", u.mnt, served.mnt)
    assert listed(u.mnt) == ({"own", "d", "hidden", "f"}, None)
    assert errno_of((u / "s").stat) == errno.ENOENT
    (u / "s").write_text("new")
    (u / "d/own").unlink()
    assert [row["lost"] for row in u.status()["branches"]] == [None, None]


def test_umount_branch_lost_keeps_pseudo_links(losing: Losing) -> None:
    """Pseudo-links become real links as far as their names can be seen; umount does not mind the rest, and loses none."""
    served = losing.serve("src", s="s")
    base = losing.shop.directory("base", {"f": "b"})
    os.link(base / "f", base / "f3")
    tree: dict[str, Tree | Path] = {"top": {"own": "own"}, "low": served.mnt, "base": base}
    u = losing.shop.mount("br:{top}=rw:{low}=ro:{base}=ro", changing="low", branches=tree)
    os.link(u / "f", u / "f2")
    with (u / "f2").open("a") as file:
        file.write("x")
    losing.kill(served)
    umount(u)
    top = u.branches["top"]
    names = [(top / name).stat() for name in ("f", "f2", "f3")]
    assert len({status.st_ino for status in names}) == 1
    assert names[0].st_nlink == 3


def test_umount_branch_lost_with_the_lower_names_keeps_the_record(losing: Losing) -> None:
    """A pseudo-link whose other name is on the lost branch stays for the next mount, which knows both as one file."""
    low = losing.shop.directory("src", {"a": "a"})
    os.link(low / "a", low / "b")
    served = losing.shop.mount("br:{src}=ro,noplink", branches={"src": low})
    tree: dict[str, Tree | Path] = {"top": {}, "low": served.mnt}
    u = losing.shop.mount("br:{top}=rw:{low}=ro", changing="low", branches=tree)
    with (u / "a").open("a") as file:
        file.write("x")
    losing.kill(served)
    umount(u)
    assert os.listdir(u.branches["top"] / ".wh..wh.plnk")


def test_mount_over_union_with_branch_lost_says_it_is_busy(losing: Losing) -> None:
    """A union that lost a branch, or its only one, is not called dead, and no dead server's error comes out of it."""
    u, _ = lost_between(losing)
    served = losing.serve("only", f="f")
    alone = losing.shop.mount("br:{alone}=ro", branches={"alone": served.mnt})
    losing.kill(served)
    for each in (u, alone):
        done = unionfs("mount", "-o", f"br:{u.branches['base']}=ro", each.mnt, check=False)
        assert done.returncode == 1
        assert "dead" not in done.stderr
    assert errno_of(os.statvfs, alone.mnt) == errno.EIO
    assert errno_of(os.listdir, alone.mnt) == errno.EIO
    assert alone.status()["branches"][0]["lost"]


def test_read_branch_back_is_whole_again(losing: Losing) -> None:
    """A branch that could not be reached for a while (EIO) counts again when it answers."""
    served = losing.serve("src", s="s")
    between = losing.shop.mount("br:{between}=ro", branches={"between": served.mnt})
    tree: dict[str, Tree | Path] = {"top": {"own": "own"}, "low": between.mnt}
    u = losing.shop.mount("br:{top}=rw:{low}=ro", changing="low", branches=tree)
    losing.kill(served)
    assert (u / "own").read_text() == "own"
    assert listed(u.mnt) == ({"own"}, errno.EIO)
    spare = losing.shop.directory("spare", {"s": "back"})
    unionfs("branch", "prepend", between.mnt, f"{spare}=ro")
    unionfs("branch", "del", between.mnt, served.mnt)
    eventually(lambda: errno_of((u / "s").read_text) is None, "the branch is back")
    assert (u / "s").read_text() == "back"
    assert listed(u.mnt) == ({"own", "s"}, None)


def test_read_branch_lost_that_hides_names_shows_nothing_below(losing: Losing) -> None:
    """What a lost branch with whiteouts may hide does not come back: deleted files, former versions."""
    served = losing.serve("src", s="s")
    u = losing.shop.mount(
        "br:{top}=rw:{low}=ro+wh:{base}=ro",
        changing="low",
        branches={"top": {"own": "own"}, "low": served.mnt, "base": {"f": "b"}},
    )
    losing.kill(served)
    assert (u / "own").read_text() == "own"
    assert errno_of((u / "f").read_text) == errno.EIO
    assert listed(u.mnt) == ({"own"}, errno.EIO)


def test_overlay_branch_lost_upper_stays_usable(losing: Losing) -> None:
    """unionfs-overlay: the root and upper files work as with the kernel's overlayfs, and it is unmounted."""
    served = losing.serve("src", s="s")
    upper, work = losing.shop.directory("upper", {"own": "own"}), losing.shop.directory("work")
    mnt = losing.shop.directory("mnt")
    command = program("unionfs-overlay", "unionfs.cli.overlay")
    options = f"lowerdir={served.mnt},upperdir={upper},workdir={work}"
    subprocess.run([*command, "-o", options, mnt], check=True, timeout=60)
    try:
        losing.kill(served)
        assert (mnt / "own").read_text() == "own"
        assert mnt.is_dir()
        assert listed(mnt) == ({"own"}, errno.EIO)
        (mnt / "own").unlink()
        assert errno_of((mnt / "own").stat) == errno.ENOENT
    finally:
        subprocess.run(["umount", mnt], check=True)
    assert os.listdir(upper) == ["own"]  # a whiteout: the lost layer may have the name
