# SPDX-License-Identifier: Apache-2.0
"""What users who did not mount a union may ask of it: where files come from and how it is, as far as they can see it."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.union import Union, Workshop, program, unionfs

NOBODY = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]


def as_nobody(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run `unionfs` as a user who owns nothing; skip where he cannot read it."""
    command = [*NOBODY, *program(), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if "ermission denied" in done.stderr and "python" in done.stderr:
        pytest.skip("the program is not readable for other users here")
    return done


@pytest.fixture
def shared(union: Workshop) -> Union:
    """Give a union with files that everybody may look at, and some that nobody else may."""
    u = union.mount(
        "br:{top}=rw:{low}=ro",
        changing="low",
        branches={
            "top": {"own": "own", "d/f": "top"},
            "low": {"f": "f", "own": "hidden", "d/f": "low", "secret/s": "s"},
        },
    )
    (u.branches["low"] / "secret").chmod(0o700)
    (u / "own").chmod(0o600)
    return u


def test_status_as_another_user_is_answered(shared: Union) -> None:
    """status and branch list say what they say to root; nothing of it is secret."""
    for words in (["status", "--json"], ["branch", "list"]):
        done = as_nobody(*words, shared.mnt)
        assert (done.returncode, done.stderr) == (0, "")
        if words[0] == "branch":
            assert done.stdout == unionfs(*words, shared.mnt).stdout
        else:
            assert json.loads(done.stdout)["branches"] == shared.status()["branches"]


def test_status_with_long_branch_list_comes_in_pages(union: Workshop) -> None:
    """An answer of more than the kernel passes on at once is whole."""
    deep = union.root / ("x" * 200) / ("y" * 200)
    paths = {f"B{number}": deep / str(number) for number in range(250)}
    for path in paths.values():
        path.mkdir(parents=True)
    u = union.mount("udba=none", branches=dict(paths))
    done = as_nobody("branch", "list", "--json", u.mnt)
    rows = json.loads(done.stdout)
    assert len(done.stdout) > 1 << 16
    assert rows == u.status()["branches"]


def test_which_as_another_user_tells_what_he_sees(shared: Union) -> None:
    """The branch of each file that he can go to, also one that he may not read; nothing of what is hidden below it."""
    top, low = shared.branches["top"], shared.branches["low"]
    done = as_nobody("which", shared / "f", shared / "own", shared / "d")
    assert done.stderr == ""
    shown = [line.split()[2] for line in done.stdout.splitlines() if line.startswith("*")]
    assert shown == [str(low / "f"), str(top / "own"), str(top / "d"), str(low / "d")]
    assert f"{low / 'own'}" not in done.stdout
    assert f"{low / 'own'}" in unionfs("which", shared / "own").stdout


def test_which_as_another_user_does_not_tell_what_he_cannot_see(shared: Union) -> None:
    """A directory that he may not search is closed to him, whether there is such a name in it or not."""
    for name in ("s", "none"):
        done = as_nobody("which", shared / "secret" / name)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"unionfs: {shared / 'secret' / name}: Permission denied\n"


def test_change_as_another_user_is_refused(shared: Union) -> None:
    """Whatever changes something is the owner's and root's, as are its holders and statistics."""
    low = shared.branches["low"]
    refused: list[list[str | Path]] = [["flush"], ["stats"], ["branch", "del"]]
    for words in refused:
        done = as_nobody(*words, shared.mnt, *([low] if words[0] == "branch" else []))
        assert done.returncode == 1
        assert "does not answer to this user" in done.stderr


def test_questions_are_no_attributes_of_files(shared: Union) -> None:
    """Nobody finds them who lists attributes, they cannot be set, and other names of the kind are none."""
    assert not [name for name in os.listxattr(shared / "f") if "unionfs" in name]
    for path, name in (
        (shared.mnt, "system.unionfs.which.0"),
        (shared / "f", "unionfs.which.0"),
        (shared / "f", "system.unionfs.status.0"),
        (shared.mnt, "unionfs.stats.0"),
        (shared.mnt, "unionfs.status.x"),
    ):
        with pytest.raises(OSError):
            os.getxattr(path, name)
        with pytest.raises(OSError):
            os.setxattr(path, name, b"x")
    assert os.getxattr(shared.mnt, "unionfs.status.1000") == b""
