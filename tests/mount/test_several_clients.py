# SPDX-License-Identifier: Apache-2.0
"""Several processes work in one mount at once: what each knows holds at every step, and in the branches afterwards."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.tree import HardLink, Tree
from tests.support.union import SESSIONS, Union, Workshop, unionfs

CLIENTS = 4
OPERATIONS = 250
SHARED = 6  # names that all clients make, rename and remove in the shared directory


class Client:
    """One process: files of its own, whose content it knows, and the shared directory, whose files are all of one shape."""

    def __init__(self, mount: Path, number: int) -> None:
        self.random = random.Random(number)
        self.number = number
        self.mount = mount
        self.files: dict[str, list[str]] = {}  # name -> the content, one object for all names of a file
        for index in range(6):
            content = [f"{number}.{index}\n", "lower"]
            self.files[f"own/{number}/low{index}"] = self.files[f"own/{number}/link{index}"] = content
        self.made = 0

    def work(self, count: int) -> dict[str, str]:
        """Do operations, each checked; return the content by name that there is in the end."""
        own = (
            self.create,
            self.append,
            self.append,
            self.rename,
            self.unlink,
            self.link,
            self.read,
            self.replace,
        )
        for _ in range(count):
            self.random.choice((*own, self.share, self.list_shared))()
        for name in self.files:
            self.check(name)
        return {name: content[0] for name, content in self.files.items()}

    def any(self) -> str:
        return self.random.choice(list(self.files))

    def fresh(self) -> str:
        self.made += 1
        return f"{self.random.choice(('own', 'other'))}/{self.number}/f{self.made}"

    def check(self, name: str) -> None:
        found = (self.mount / name).read_text()
        assert found == self.files[name][0], (name, found, self.files[name][0])
        if len(self.files[name]) == 1:  # of lower links docs/semantics.md says what counts
            links = sum(content is self.files[name] for content in self.files.values())
            assert links == (self.mount / name).stat().st_nlink, name

    def create(self) -> None:
        name = self.fresh()
        self.files[name] = [f"{name}\n" * self.random.randrange(1, 2000)]
        (self.mount / name).write_text(self.files[name][0])

    def append(self) -> None:
        name = self.any()
        with (self.mount / name).open("a") as file:
            file.write("more\n")
        self.files[name][0] += "more\n"
        self.check(name)

    def rename(self) -> None:
        name, new = self.any(), self.fresh()
        (self.mount / name).rename(self.mount / new)
        self.files[new] = self.files.pop(name)
        self.check(new)
        assert not os.path.lexists(self.mount / name)

    def replace(self) -> None:
        name, new = self.any(), self.any()
        (self.mount / name).rename(self.mount / new)  # two names of one file: nothing happens
        if self.files[name] is not self.files[new]:
            self.files[new] = self.files.pop(name)
        self.check(new)

    def unlink(self) -> None:
        if len(self.files) > 8:
            name = self.any()
            (self.mount / name).unlink()
            del self.files[name]
            assert not os.path.lexists(self.mount / name)

    def link(self) -> None:
        name, new = self.any(), self.fresh()
        (self.mount / new).hardlink_to(self.mount / name)
        self.files[new] = self.files[name]
        self.check(new)

    def read(self) -> None:
        self.check(self.any())

    def share(self) -> None:
        """Put a whole file in place of a shared name by a rename, move one over another, or remove one."""
        shared = self.mount / "shared"
        first, second = (shared / f"s{self.random.randrange(SHARED)}" for _ in range(2))
        what = self.random.randrange(3)
        try:
            if what == 0:
                stage = shared / f".stage{self.number}"
                stage.write_text(whole(self.number))
                stage.rename(first)
            elif what == 1:
                first.rename(second)
            else:
                first.unlink()
        except FileNotFoundError:
            assert what, "a file of one's own is gone"

    def list_shared(self) -> None:
        """No name is listed twice, what never changes is there, and every file is whole."""
        names = os.listdir(self.mount / "shared")
        assert len(names) == len(set(names)) and {"always", "alwaystoo"} <= set(names), names
        for name in names:
            if name.startswith("s"):
                try:
                    assert is_whole((self.mount / "shared" / name).read_text()), name
                except FileNotFoundError:
                    pass


def whole(number: int) -> str:
    """Return what a client puts in a shared file."""
    return f"{number}" * 5000 + "\n"


def is_whole(text: str) -> bool:
    """Tell whether a shared file holds what one client, or the lower branch, put there."""
    return text == "lower\n" or (bool(text) and text == text[0] * 5000 + "\n")


def _lower() -> Tree:
    tree: dict[str, str | HardLink] = {f"shared/s{number}": "lower\n" for number in range(0, SHARED, 2)}
    tree["shared/always"] = "a"
    for number in range(CLIENTS):
        tree[f"other/{number}/lower"] = "l"
        for index in range(6):
            tree[f"own/{number}/low{index}"] = f"{number}.{index}\n"
            tree[f"own/{number}/link{index}"] = HardLink(f"own/{number}/low{index}")
    return dict(tree)


def _run_clients(u: Union) -> dict[str, str]:
    """Run the clients at once, and return the content by name that all of them know in the end."""
    argv = [sys.executable, "-c", "from tests.mount.test_several_clients import main; main()", str(u.mnt)]
    clients = [
        subprocess.Popen([*argv, str(number)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for number in range(CLIENTS)
    ]
    known: dict[str, str] = {}
    for client in clients:
        output, errors = client.communicate()
        assert client.returncode == 0, errors
        known |= json.loads(output)
    return known


def main() -> None:
    """Be one client: mount point and number are the arguments."""
    client = Client(Path(sys.argv[1]), int(sys.argv[2]))
    print(json.dumps(client.work(OPERATIONS)))


def _check_union(root: Path, known: dict[str, str]) -> None:
    for name, content in known.items():
        assert (root / name).read_text() == content, name
    for where in ("own", "other"):
        found = {f"{where}/{n}/{name}" for n in range(CLIENTS) for name in os.listdir(root / where / str(n))}
        assert found - {f"other/{n}/lower" for n in range(CLIENTS)} == {
            n for n in known if n.startswith(where)
        }
    for path in (root / "shared").iterdir():
        assert path.name.startswith("always") or is_whole(path.read_text()), path.name


def _check_branch(branch: Path, known: dict[str, str]) -> None:
    """No stage, no temporary copy, no name beside its own whiteout; what lies here has the content that is known."""
    for place, _, names in os.walk(branch):
        where = Path(place).relative_to(branch)
        if where.parts[:1] in ((".wh..wh.orph",), (".wh..wh.plnk",)):
            assert not names, (place, names)
        for name in names:
            assert not name.startswith(".wh.") or name.startswith(".wh..wh.") or name[4:] not in names, (
                place,
                name,
            )
            assert not name.startswith(".wh..wh.") or name in (".wh..wh.aufs", ".wh..wh..opq"), (place, name)
            if str(where / name) in known:
                assert (Path(place) / name).read_text() == known[str(where / name)]


@pytest.mark.parametrize("union", SESSIONS, indirect=True)
@pytest.mark.parametrize("options", ["", "udba=none"])
def test_four_clients_at_once_keep_what_each_of_them_knows(union: Workshop, options: str) -> None:
    """Creating, renaming, removing, linking, appending and reading on two branches; then the same after a new mount."""
    u = union.mount(options, B0={"shared/alwaystoo": "b", "shared/s1": "lower\n"}, B1=_lower())
    known = _run_clients(u)
    _check_union(u.mnt, known)
    u.remount()
    _check_union(u.mnt, known)
    u.stop()
    _check_branch(u.branch(0), known)
    unionfs("check", u.branch(0))
