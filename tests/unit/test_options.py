# SPDX-License-Identifier: Apache-2.0
"""The option string: every word of AUFS' table, its aliases, its limits, and what an unknown word does."""

import os
from pathlib import Path

import pytest

from unionfs.branches.branch import Branch
from unionfs.errors import UserError
from unionfs.kernel.paths import absolute
from unionfs.options import overlay
from unionfs.options.aufs import Options, escape, initial_branches, parse, split_words, unescape
from unionfs.options.table import shown


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


LABEL = 'context="system_u:object_r:container_file_t:s0:c12,c345"'


def test_parse_quoted_value_keeps_its_commas() -> None:
    """NAME="VALUE" is one word, as mount(8) has it; also for branches and beside escapes."""
    request = parse(f'br="/a,b=rw:/c\\:d=ro",{LABEL},udba=none,fsname="x,y"')
    assert [branch.path for branch in request.branches] == ["/a,b", "/c:d"]
    assert request.options.udba == "none"
    assert request.fsname == "x,y"


@pytest.mark.parametrize(
    ("text", "path"),
    [('br=/a"b=rw', '/a"b'), ('br="/a=rw', '"/a'), ('br=/a\\,"b=rw', '/a,"b'), ('br:"a"=rw', '"a"')],
)
def test_parse_quote_inside_a_value_is_a_character(text: str, path: str) -> None:
    """A quote counts only around a whole value."""
    assert parse(text + ",udba=none").branches[0].path == path


def test_split_words_can_be_joined_again() -> None:
    """The words of a string keep their quotes, so that whoever passes some of them on changes nothing."""
    text = f'{LABEL},ro,x="a\\",b",y=",z'
    words = list(split_words(text))
    assert words == [LABEL, "ro", 'x="a\\",b"', 'y="', "z"]
    assert ",".join(words) == text


def test_parse_overlay_takes_quotes_and_what_podman_adds() -> None:
    """SELinux labels, propagation and identity maps with a leading colon are accepted by unionfs-overlay."""
    maps = "uidmapping=:0:0:4294967295,gidmapping=:0:0:4294967295"
    for word in ("private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable"):
        request = overlay.parse(f'lowerdir="/l,1:/m",upperdir=/u,workdir=/w,{LABEL},{maps},{word}')
        assert [branch.path for branch in request.branches] == ["/u", "/l,1", "/m"]


def test_absolute_leaves_parents_to_the_kernel(tmp_path: Path) -> None:
    """`..` behind a symbolic link is not cut as text."""
    (tmp_path / "real/inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real/inner")
    path = absolute(f"{tmp_path}/./link//../x/")
    assert path == f"{tmp_path}/link/../x"
    assert os.path.realpath(path) == str(tmp_path / "real/x")
    assert absolute("/a//b/.") == "/a/b"
    assert absolute("a") == os.path.join(os.getcwd(), "a")


SENT = "lowerdir=/l/A:/l/B,upperdir=/u,workdir=/w"


@pytest.mark.parametrize(
    "text",
    [
        "lowerdir=/empty,upperdir=/u,workdir=/w",
        "lowerdir=/diff:/l/A:/l/B",
        "lowerdir=l/A:l/B,upperdir=ID/diff,workdir=ID/work",
        "lowerdir=/home/l/A/../diff1:/l/B,upperdir=/u,workdir=/w",
        *(
            f"{SENT},{words}"
            for words in (
                "volatile",
                "metacopy=on",
                "userxattr",
                "fsync=0",
                "ro",
                "rw,ro",
                "defaults,nodev,nosuid,noexec,noatime,nodiratime,relatime,norelatime,strictatime,nostrictatime",
                "sync,async,dirsync,mand,nomand,suid,dev,exec,atime,diratime",
                "private,rprivate,shared,rshared,slave,rslave,unbindable,runbindable",
                'context="system_u:object_r:container_file_t:s0:c12,c345"',
                "uidmapping=0:100000:65536,gidmapping=0:100000:65536",
                "uidmapping=:0:1:1000:1000:0:1,squash_to_gid=100000",
                "squash_to_uid=100000,squash_to_gid=100000",
                "noacl,userxattr,index=off,xino=off,nfs_export=off,redirect_dir=off,redirect_dir=nofollow,uuid=null",
            )
        ),
        r'lowerdir=/v\:c,upperdir=/u,workdir=/w,private,context="u:r:t:s0:c1,c2"',
        "lowerdir=/volume:/content/lower,private",
    ],
)
def test_parse_overlay_takes_what_container_engines_send(text: str) -> None:
    """Every word that containers-storage's overlay driver, a storage.conf's mountopt and buildah's volumes can send."""
    assert overlay.parse(text).branches


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("xattr_permissions=2", "xattr_permissions=2"),
        ("metacopy=on,redirect_dir=on", "redirect_dir=on"),
        ("bind", "bind"),
        ("squash_to_uid=", "squash_to_uid"),
        ("squash_to_uid=-1", "squash_to_uid"),
        ("squash_to_gid=4294967295", "squash_to_gid"),
        ("squash_to_gid=root", "squash_to_gid"),
        ("squash_to_uid", "squash_to_uid"),
    ],
)
def test_parse_overlay_names_what_it_refuses_of_container_engines(words: str, why: str) -> None:
    """force_mask keeps owners and modes in extended attributes, composefs wants redirects written: no word is dropped."""
    with pytest.raises(UserError, match=why):
        overlay.parse(f"{SENT},{words}")


def test_parse_overlay_refuses_layers_of_data_only() -> None:
    """composefs' `::` would show the data directories' names."""
    with pytest.raises(UserError, match="data-only"):
        overlay.parse("lowerdir=/l::/data,upperdir=/u,workdir=/w")


def test_parse_overlay_reads_squashing() -> None:
    """A number goes before squash_to_root, also for one kind alone; without any nothing is squashed."""
    options = overlay.parse(f"{SENT},squash_to_uid=7,squash_to_root").options
    assert (options.squash_uid, options.squash_gid) == (7, 0)
    options = overlay.parse(f"{SENT},squash_to_gid=9").options
    assert (options.squash_uid, options.squash_gid) == (None, 9)


@pytest.mark.parametrize(
    "value",
    [
        "",
        ":",
        "1:2",
        "a:0:1",
        "0:0:1:2",
        "0:0:-1",
        "0:0:10:5:20:10",
        "0:0:10:20:5:10",
        "0:1:4294967296",
        "²:0:1",
    ],
)
def test_parse_overlay_refuses_maps_that_make_no_sense(value: str) -> None:
    """Too few or too big numbers, other characters and overlapping ranges are errors that name the option."""
    with pytest.raises(UserError, match="uidmapping"):
        overlay.parse(f"lowerdir=/l,uidmapping={value}")


def test_parse_overlay_reads_maps() -> None:
    """Ranges keep their order; a map of ids to themselves is none."""
    options = overlay.parse("lowerdir=/l,uidmapping=:0:1:1000:1000:0:1,gidmapping=0:0:65536").options
    assert options.uid_map == ((0, 1, 1000), (1000, 0, 1))
    assert options.gid_map == ()
