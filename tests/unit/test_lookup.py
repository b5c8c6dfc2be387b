# SPDX-License-Identifier: Apache-2.0
"""Where a name is (docs/aufs.md §2): a table of branches without a mount, asked in each way that the core has."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.core import layers, opened, outcome, union
from unionfs.branches import emptiness
from unionfs.branches.redirects import Stack
from unionfs.lookup.find import Found, check_name, find
from unionfs.lookup.known_names import learn

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="trusted marks need root")

# Branches, and on which of them the name `n` shows.
FILES = [
    (("ro: n", "ro: n"), "B0"),
    (("ro:", "ro: n"), "B1"),
    (("ro:", "ro:"), ""),
    (("rw: .wh.n", "ro: n"), ""),
    (("ro+wh: .wh.n", "ro: n"), ""),
    (("ro: .wh.n", "ro: n"), "B1"),  # whiteouts count on whable branches alone
    (("rr: .wh.n", "ro: n"), "B1"),
    (("rw: .wh.other", "ro: n"), "B1"),
    (("ro: n", "ro+wh: .wh.n", "ro: n"), "B0"),
    (("ro:", "ro+wh: .wh.n", "ro: n"), ""),
    (("ro: n", "ro: n/"), "B0"),  # the first entry decides the type
    (("rw: n .wh.n", "ro: n"), "B0"),  # beside its own whiteout an entry shows
    (("rw:", "ro+wh: n .wh.n"), "B1"),
    (("rw: .wh.n/",), "EIO"),
    (("ro: .wh.n/", "ro: n"), "B1"),
    (("rw: .wh.n/", "ro: n"), "EIO"),
]
DIRECTORIES = [
    (("ro: n/", "ro: n/"), "B0 B1"),
    (("ro: n/", "ro:", "ro: n/"), "B0 B2"),
    (("ro: n/", "ro: n", "ro: n/"), "B0 B2"),  # a file between directories is passed over
    (("ro: n", "ro: n/", "ro: n/"), "B0"),
    (("ro: n/", "ro: n"), "B0"),
    (("ro: n/", "ro+wh: .wh.n", "ro: n/"), "B0"),
    (("rw: n/ .wh.n", "ro: n/"), "B0"),
    (("rw:", "ro+wh: n/ .wh.n", "ro: n/"), "B1"),
    (("rw: n/.wh..wh..opq", "ro: n/"), "B0"),
    (("ro: n/.wh..wh..opq", "ro: n/"), "B0 B1"),
    (("rw: n/", "ro+wh: n/.wh..wh..opq", "ro: n/"), "B0 B1"),
    (("rw: n/", "ro+wh: n/.wh..wh..opq", "ro: n"), "B0 B1"),
    (("rw: n/.wh..wh..opq", "ro: n", "ro: n/"), "B0"),
]
OVERLAY = [
    (("ro+ovl: n!", "ro: n"), ""),
    (("ro: n!", "ro: n"), "B0"),  # without +ovl it is a device
    (("rw:", "ro+ovl: n!", "ro: n/"), ""),
    (("ro+ovl: n/", "ro+ovl: n", "ro+ovl: n/"), "B0"),  # overlayfs stops at an entry of another type
    (("ro+ovl: n/", "ro+ovl: n!", "ro+ovl: n/"), "B0"),
    (("ro+ovl: n/", "ro+ovl: n/", "ro: n/"), "B0 B1 B2"),
    (("ro+ovl: .wh.n", "ro: n"), "B1"),  # AUFS' form needs +wh
    (("ro+wh+ovl: .wh.n", "ro: n"), ""),
]
TRUSTED = [
    (("ro+ovl: n/@opaque=y", "ro: n/"), "B0"),
    (("ro+ovl: n/@opaque=x", "ro: n/"), "B0 B1"),
    (("ro: n/@opaque=y", "ro: n/"), "B0 B1"),
    (("ro+ovl: n/@redirect=m", "ro+ovl: m/ n/"), "B0 B1:m"),
    (("ro+ovl: n/@redirect=/a/m", "ro+ovl: a/m/", "ro+ovl: n/ a/m/"), "B0 B1:a/m B2:a/m"),
    (("ro+ovl: n/@redirect=m", "ro+ovl: n/"), "B0"),
    (("ro+ovl: n/@redirect=m", "ro+ovl: m n/", "ro+ovl: m/"), "B0"),
    (("ro+ovl: n/@redirect=m", "ro+ovl: m!", "ro+ovl: m/"), "B0"),
    (("ro+ovl: n/@redirect=../m", "ro+ovl: m/"), "EINVAL"),
    (("ro+ovl: n/@tomorrow=1", "ro+ovl: n/"), "EPERM"),
]
ROWS = FILES + DIRECTORIES + OVERLAY + [pytest.param(*row, marks=needs_root) for row in TRUSTED]
each_row = pytest.mark.parametrize(("layout", "wanted"), ROWS)


def _place(found: Found, position: int) -> str:
    branch = found.entries[position][0]
    place = (found.places or {}).get(branch)
    name = Path(branch.path).name
    return f"{name}:{os.fsdecode(b'/'.join(place.parts))}" if place is not None else name


def _show(found: Found | None) -> str:
    return "" if found is None else " ".join(_place(found, at) for at in range(len(found.entries)))


@each_row
def test_find_tells_where_a_name_shows(layout: Sequence[str], wanted: str, tmp_path: Path) -> None:
    """The whole table, in the root of the branches."""
    with opened(tmp_path, layout) as branches:
        tops = [(branch, branch.root) for branch in branches]
        found: list[Found | None] = []
        failed = outcome(lambda: found.append(find(tops, b"n", stack=Stack(tops))))
        assert failed or _show(found[0]) == wanted
        assert failed in ("", wanted)


@each_row
def test_find_with_known_names_tells_the_same(layout: Sequence[str], wanted: str, tmp_path: Path) -> None:
    """What is known of the names in copies saves looks, and changes no answer."""
    with opened(tmp_path, layout) as branches:
        tops = [(branch, branch.root) for branch in branches]
        known = [learn(branch, fd, 1000, trust=True) for branch, fd in tops]
        found: list[Found | None] = []
        failed = outcome(lambda: found.append(find(tops, b"n", contents=known, stack=Stack(tops))))
        assert failed or _show(found[0]) == wanted
        assert failed in ("", wanted)


def test_find_in_names_that_are_known_does_not_look_for_others(tmp_path: Path) -> None:
    """A name that a copy is known not to have is not asked for; one that came since shows when the copy was read again."""
    with opened(tmp_path, ("ro: a", "ro:")) as branches:
        tops = [(branch, branch.root) for branch in branches]
        known = learn(*tops[0], 1000, trust=True)
        assert known is not None
        name = next(b"%d" % number for number in range(1000) if not known.may_hold(b"%d" % number))
        for branch in branches:
            (Path(branch.path) / os.fsdecode(name)).touch()
        assert _show(find(tops, name, contents=[known, None], stack=Stack(tops))) == "B1"
        assert (
            _show(find(tops, name, contents=[learn(*tops[0], 1000, trust=True), None], stack=Stack(tops)))
            == "B0"
        )


def test_find_without_last_mark_leaves_the_last_whiteouts_out(tmp_path: Path) -> None:
    """They hide nothing, so there is no look for them (which would be EIO here); those above count as ever."""
    with opened(tmp_path, ("rw: .wh.gone", "ro+wh: gone .wh.n/")) as branches:
        tops = [(branch, branch.root) for branch in branches]
        assert find(tops, b"n", last_mark=False, stack=Stack(tops)) is None
        assert outcome(lambda: find(tops, b"n", stack=Stack(tops))) == "EIO"
        assert find(tops, b"gone", last_mark=False, stack=Stack(tops)) is None


@pytest.mark.parametrize(
    ("layout", "above", "shows"),
    [
        (("rw: n", "ro: n"), 0, True),
        (("rw: n", "ro:"), 0, False),
        (("rw: n", "ro: n/"), 0, True),  # of any type
        (("rw:", "rw: n", "ro:"), 1, False),
        (("rw: n", "rw: n", "ro:"), 1, False),  # what is above does not count
        (("rw: n", "ro+wh: .wh.n", "ro: n"), 0, False),
        (("rw: n", "ro: .wh.n", "ro: n"), 0, True),
        (("rw: n", "ro: n", "ro: n"), 2, False),
    ],
)
@pytest.mark.parametrize("options", ["udba=none", "udba=reval"])
def test_shows_below_is_what_a_removal_would_uncover(
    options: str, layout: Sequence[str], above: int, shows: bool, tmp_path: Path
) -> None:
    """Only lower branches are asked, and whiteouts among them count; the same before and after names are learned."""
    with union(tmp_path, layout, options) as filesystem:
        core, root = filesystem._union, filesystem.node(1)
        for _ in range(20):
            assert core.shows_below(root, b"n", core.branches[above]) is shows
            outcome(lambda: filesystem.lookup(root, b"n"))


def test_shows_below_without_a_branch_asks_the_others(tmp_path: Path) -> None:
    """A name that is about to go from a lower branch too is no reason for a whiteout; another copy is."""
    for lowest, shows in (("ro:", False), ("ro: n", True)):
        (tmp_path / str(shows)).mkdir()
        with union(tmp_path / str(shows), ("rw: n", "rw: n", lowest)) as filesystem:
            core, root = filesystem._union, filesystem.node(1)
            top, middle, _ = core.branches
            assert core.shows_below(root, b"n", top, without=middle) is shows


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (b"n" * 242, ""), (b"n" * 243, "ENAMETOOLONG"), (b".wh.n", "EPERM"), (b".wh.", "EPERM"), (b".wh", ""),
        (b"a.wh.n", ""), (b".wh." + b"n" * 300, "ENAMETOOLONG"),
    ],
)  # fmt: skip
def test_check_name_refuses_what_no_union_holds(name: bytes, wanted: str) -> None:
    """242 bytes, and none of the reserved names unless they are shown (`shwh`)."""
    assert outcome(lambda: check_name(name)) == wanted
    assert outcome(lambda: check_name(name, shwh=True)) == ("" if wanted == "EPERM" else wanted)


@pytest.mark.parametrize("options", ["udba=none", "udba=reval"])
@pytest.mark.parametrize(("layout", "wanted"), FILES + DIRECTORIES)
def test_lookup_in_a_union_tells_the_same(
    layout: Sequence[str], wanted: str, options: str, tmp_path: Path
) -> None:
    """The union's own ways round `find` (a single copy, names that are known) give what `find` gives."""
    with union(tmp_path, layout, options) as filesystem:
        root = filesystem.node(1)
        for _ in range(20):  # by then names are learned
            outcome(lambda: filesystem.lookup(root, b"n"))
        found: list[Found | None] = []
        failed = outcome(lambda: found.append(filesystem._union.find(root, b"n")))
        looked = outcome(lambda: filesystem.lookup(root, b"n"))
        if options == "udba=none" and wanted == "EIO":  # the last copy's marks need not be looked at
            assert failed in ("", "EIO") and looked in ("ENOENT", "EIO")
            return
        assert failed or _show(found[0]) == wanted
        assert looked == (wanted if wanted == "EIO" else "" if wanted else "ENOENT")


@pytest.mark.parametrize(
    ("layout", "empty"),
    [
        (("rw: d/", "ro: d/"), True),
        (("rw: d/f",), False),
        (("rw: d/", "ro: d/f"), False),
        (("rw: d/.wh.f", "ro: d/f"), True),
        (("rw: d/.wh.g", "ro: d/f"), False),
        (("rw: d/.wh.f", "ro: d/.wh.g", "ro: d/f d/g"), True),
        (("rw: d/", "ro: d/.wh.f", "ro: d/f"), True),  # here a whiteout counts on every branch
        (("rw: d/f d/.wh.f", "ro: d/f"), False),
        (("rw: d/", "ro: d/f", "ro: d/.wh.f"), False),  # one below hides nothing
        (("rw: d/", "ro+ovl: d/f!", "ro: d/f"), True),
        (("rw: d/", "ro: d/f!"), False),
        (("rw: d/.wh..wh..opq",), True),
        (("rw: d/", "ro: d/s/"), False),
    ],
)
def test_directory_is_empty_if_every_name_is_covered_from_above(
    layout: Sequence[str], empty: bool, tmp_path: Path
) -> None:
    """docs/aufs.md §2.5."""
    with opened(tmp_path, layout) as branches, layers(branches, "d") as copies:
        assert emptiness.is_empty(copies) is empty


@pytest.mark.parametrize(
    ("layout", "covered"),
    [
        (("rw: d/f", "ro: d/"), True),
        (("rw: d/.wh.f", "ro: d/f"), True),
        (("rw: d/f", "ro: d/f"), False),  # a child that takes its place is not enough
        (("rw: d/.wh.f", "ro: d/f d/g"), False),
        (("rw: d/.wh.f", "ro: d/.wh.f", "ro: d/f"), True),
        (("rw: d/", "ro: d/.wh.f", "ro: d/f"), False),  # only the top's whiteouts move with it
        (("rw: d/", "ro+ovl: d/f!"), True),
        (("rw: d/", "ro: d/f!"), False),
    ],
)
def test_directory_is_covered_if_its_top_hides_every_lower_child(
    layout: Sequence[str], covered: bool, tmp_path: Path
) -> None:
    """What lets a directory with lower copies be renamed (docs/aufs.md §3.2)."""
    with opened(tmp_path, layout) as branches, layers(branches, "d") as copies:
        assert emptiness.is_covered(copies[0], copies[1:]) is covered
