# SPDX-License-Identifier: Apache-2.0
"""The option string: every word of AUFS' table, its aliases, its limits, and what an unknown word does."""

import pytest

from unionfs.branch import Branch
from unionfs.errors import UserError
from unionfs.option_table import shown
from unionfs.options import Options, escape, initial_branches, parse, unescape


@pytest.mark.parametrize(
    ("word", "field", "value"),
    [
        ("create=rr", "create", "rr"),
        ("create=round-robin", "create", "rr"),
        ("create_policy=most-free-space", "create", "mfs"),
        ("create=mfs:7", "create_seconds", 7),
        ("create=mfsrr:4096", "create_low", 4096),
        ("create:tdmfs:1000000000000:0", "create_seconds", 0),
        ("cpup=bup", "copy_up", "bup"),
        ("copyup=bottom-up", "copy_up", "bu"),
        ("copyup_policy=top-down-parent", "copy_up", "tdp"),
        ("udba=none", "udba", "none"),
        ("udba=fsnotify", "udba", "notify"),
        ("udba=inotify", "udba", "notify"),
        ("noplink", "plink", False),
        ("sum", "sum", True),
        ("dirwh=0", "dirwh", 0),
        ("diropq=always", "diropq", "a"),
        ("nodirperm1", "dirperm1", False),
        ("shwh", "shwh", True),
        ("nowarn_perm", "warn_perm", False),
        ("v", "verbose", True),
        ("noacl", "acl", False),
        ("whiteout=overlay", "whiteout", "overlay"),
        ("nofsync", "fsync", False),
        ("fsync=0", "fsync", False),
        ("volatile", "fsync", False),
        ("rdcache=3600", "rdcache", 3600),
        ("ro", "read_only", True),
        ("xino=/x/y", "xino", "/x/y"),
        ("droplvl=3", "plink", False),
        ("ephemeral", "udba", "none"),
    ],
)
def test_parse_one_word_sets_its_field(word: str, field: str, value: object) -> None:
    """Each word changes exactly the field that it names."""
    assert getattr(parse(word).options, field) == value


@pytest.mark.parametrize(
    "word",
    [
        "noxino", "trunc_xino", "notrunc_xino", "trunc_xino=/b", "itrunc_xino=2", "trunc_xib", "notrunc_xib",
        "clean_plink", "list_plink", "dio", "nodio", "rdblk=def", "rdblk=512", "rdhash=32", "fhsm_sec=30",
        "si=0123abcd", "relatime", "nodlgt", "debug=1", "delete=all", "imap=x", "dirren", "wsum", "quiet", "q",
        "silent", "noverbose", "droplvl=-3", "defaults", "noauto", "user", "_netdev", "x-systemd.automount",
        "comment=foo", "context=system_u",
    ],
)  # fmt: skip
def test_parse_accepted_and_ignored_word_changes_nothing(word: str) -> None:
    """Words without a meaning here leave every option at its default."""
    assert parse(word).options == Options()


@pytest.mark.parametrize(
    "word",
    [
        "create=pdmfs", "create=mfsrr", "create=tdp:3", "create=mfs:3601", "create=mfs:-1", "create=mfs:1:2",
        "create=tdmfs:x", "cpup=rr", "udba=maybe", "dirwh=-1", "dirwh=x", "diropq=q", "rdcache=3601", "rdcache=",
        "rdblk=10", "rdhash=x", "fhsm_sec=9999", "droplvl=4", "whiteout=docker", "fsync=2", "create", "udba",
        "mod:/a", "add:x:/a", "add:/a", "del:", "br:", "br:/a::/b", "nonsense", "nonsense=3", "brr:/a",
        "add:²:/a", "add:--1:/a", "rdcache=²", pytest.param("rdcache=" + "9" * 5000, id="long number"),
        pytest.param(f"add:{'9' * 5000}:/a", id="long index"),
    ],
)  # fmt: skip
def test_parse_bad_word_is_refused_by_name(word: str) -> None:
    """The message names the option at fault."""
    with pytest.raises(UserError) as caught:
        parse(word)
    assert word.split("=")[0].split(":")[0] in caught.value.message
    assert "\n" not in caught.value.line()


@pytest.mark.parametrize("text", ["br:/a=rw:/b=ro+wh", "br=/a=rw:/b=ro+wh", "dirs=/a=rw:/b=ro+wh"])
def test_parse_branch_list_takes_every_spelling(text: str) -> None:
    """`br:`, `br=` and `dirs=` mean the same."""
    branches = parse(text).branches
    assert branches == (Branch("/a", "rw", frozenset()), Branch("/b", "ro", frozenset({"wh"})))


def test_parse_thousand_branches_has_no_limit() -> None:
    """The option string may name a thousand branches."""
    text = "br:" + ":".join(f"/some/long/directory/name/{number}=ro" for number in range(1000))
    assert len(parse(text).branches) == 1000


def test_parse_escaped_separators_stay_in_the_path() -> None:
    """A path may hold commas and colons when they are escaped."""
    path = "/a:b,c\\d"
    assert unescape(escape(path)) == path
    assert parse(f"br:{escape(path)}=rw:/x").branches[0].path == path


def test_parse_surgery_keeps_its_order() -> None:
    """Remount options are a script that is run left to right."""
    request = parse("prepend:/n,mod:/o=ro,ins:1:/i=ro+wh,append=/p,del:/o", remount=True)
    assert [step.action for step in request.surgery] == ["prepend", "mod", "add", "append", "del"]
    assert request.surgery[1].permission == "ro"
    assert request.surgery[2].index == 1


def test_parse_remount_changes_only_what_is_named() -> None:
    """A remount keeps the options that it does not name."""
    before = parse("udba=none,sum").options
    after = parse("nosum,noplink", remount=True).applied_to(before)
    assert (after.udba, after.sum, after.plink) == ("none", False, False)


def test_parse_remount_refuses_a_branch_list() -> None:
    """`br:` belongs to the first mount."""
    with pytest.raises(UserError, match="br"):
        parse("br:/a", remount=True)


def test_parse_mount_words_last_of_a_pair_wins() -> None:
    """`nosuid,suid` is suid."""
    assert parse("nosuid,nodev,suid,ro,allow_other").mount_flags == {"nodev", "suid", "ro", "allow_other"}


def test_initial_branches_follow_index_rules() -> None:
    """append goes last, prepend first, add to its index; a number out of range is refused."""
    request = parse("br:/a:/b,append:/c,prepend:/d,add:1:/e")
    assert [branch.path for branch in initial_branches(request)] == ["/d", "/e", "/a", "/b", "/c"]
    with pytest.raises(UserError, match="out of range"):
        initial_branches(parse("br:/a,add:5:/b"))
    with pytest.raises(UserError, match="no branch"):
        initial_branches(parse("udba=none"))


def test_shown_prints_what_differs_in_aufs_order() -> None:
    """The words of the mount table line."""
    options = parse("sum,udba=none,create=mfsrr:10:5,noplink,nodirperm1,diropq=a").options
    assert shown(options, "1f") == ["si=1f", "udba=none", "noplink", "create=mfsrr:10:5", "diropq=a", "sum"]
