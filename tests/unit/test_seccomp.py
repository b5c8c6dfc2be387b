# SPDX-License-Identifier: Apache-2.0
"""Compiled seccomp profiles, run by an interpreter of their few instructions for whatever architecture; and their cache."""

import base64
import ctypes.util
import errno
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from runtime.oci import seccomp
from runtime.oci.failure import Failure
from runtime.oci.seccomp import default, enosys

pytestmark = pytest.mark.skipif(not ctypes.util.find_library("seccomp"), reason="libseccomp is not installed")

X86_64, X86, AARCH64 = 0xC000003E, 0x40000003, 0xC00000B7
X32_BIT = 0x40000000
ALLOW, ERRNO, LOG, KILL = 0x7FFF0000, 0x00050000, 0x7FFC0000, 0
# Numbers on x86_64.
READ, WRITE, GETPID, MKDIR, SOCKET, SETNS = 0, 1, 39, 83, 41, 308

_ON_X86_64 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="names numbers of x86_64")


def evaluate(program: bytes, number: int, *arguments: int, arch: int = X86_64) -> int:
    """Return what `program` decides about a system call."""
    padded = [value & (1 << 64) - 1 for value in (*arguments, *[0] * 6)][:6]
    data = struct.pack("=IIQ6Q", number & 0xFFFFFFFF, arch, 0, *padded)
    instructions = list(struct.iter_unpack("=HBBI", program))
    position = accumulator = 0
    while True:
        code, if_true, if_false, value = instructions[position]
        position += 1
        if code == 0x20:  # ld [k]
            accumulator = struct.unpack_from("=I", data, value)[0]
        elif code == 0x06:  # ret
            return int(value)
        elif code == 0x54:  # and
            accumulator &= value
        elif code == 0x05:  # ja
            position += value
        else:
            holds = {
                0x15: accumulator == value,
                0x25: accumulator > value,
                0x35: accumulator >= value,
                0x45: bool(accumulator & value),
            }[code]
            position += if_true if holds else if_false


def compiled(directory: Path, **section: Any) -> seccomp.Filter:
    """Prepare a filter of a section of config.json."""
    found = seccomp.prepare({"linux": {"seccomp": section}}, str(directory / "cache"))
    assert found is not None
    return found


def allow(*names: str, **more: Any) -> dict[str, Any]:
    """Return a rule that allows."""
    return {"names": list(names), "action": "SCMP_ACT_ALLOW", **more}


def test_prepare_without_profile_gives_none(tmp_path: Path) -> None:
    """A container without linux.seccomp has no filter."""
    assert seccomp.prepare({"linux": {}}, str(tmp_path)) is None


@_ON_X86_64
def test_actions_and_errnos(tmp_path: Path) -> None:
    """Each rule's action and errno reach the kernel as given; EPERM where none is."""
    program = compiled(
        tmp_path,
        defaultAction="SCMP_ACT_ALLOW",
        syscalls=[
            {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"},
            {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 97},
            {"names": ["getpid"], "action": "SCMP_ACT_LOG"},
            {"names": ["setns"], "action": "SCMP_ACT_KILL"},
            {"names": ["write"], "action": "SCMP_ACT_TRACE", "errnoRet": 7},
        ],
    ).program
    assert evaluate(program, READ) == ALLOW
    assert evaluate(program, MKDIR) == ERRNO | errno.EPERM
    assert evaluate(program, SOCKET) == ERRNO | 97
    assert evaluate(program, GETPID) == LOG
    assert evaluate(program, SETNS) == KILL
    assert evaluate(program, WRITE) == 0x7FF00000 | 7


@_ON_X86_64
def test_newer_calls_answer_enosys_older_the_default(tmp_path: Path) -> None:
    """A call later than all that the profile names does not exist for the container; an earlier one is forbidden."""
    program = compiled(
        tmp_path,
        defaultAction="SCMP_ACT_ERRNO",
        defaultErrnoRet=13,
        architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        syscalls=[allow("read", "setns")],
    ).program
    assert evaluate(program, SETNS) == ALLOW
    assert evaluate(program, GETPID) == ERRNO | 13
    assert evaluate(program, SETNS + 1) == ERRNO | errno.ENOSYS
    assert evaluate(program, 1000) == ERRNO | errno.ENOSYS
    assert evaluate(program, X32_BIT | SETNS) == ALLOW
    assert evaluate(program, X32_BIT | GETPID) == ERRNO | 13
    assert evaluate(program, X32_BIT | 1000) == ERRNO | errno.ENOSYS
    assert evaluate(program, 346, arch=X86) == ALLOW  # setns there
    assert evaluate(program, 20, arch=X86) == ERRNO | 13
    assert evaluate(program, 347, arch=X86) == ERRNO | errno.ENOSYS
    assert evaluate(program, 1000, arch=AARCH64) == KILL  # not in the profile


@_ON_X86_64
@pytest.mark.parametrize("default", ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"])
def test_newer_calls_follow_a_tolerant_default(tmp_path: Path, default: str) -> None:
    """Where the default lets calls pass, or a tracer decides, later ones pass too."""
    rule = {"names": ["read"], "action": "SCMP_ACT_ERRNO"}
    program = compiled(tmp_path, defaultAction=default, syscalls=[rule]).program
    assert evaluate(program, 1000) == evaluate(program, GETPID)


def test_newer_prefix_jumps_right_on_every_architecture() -> None:
    """The prefix alone: falls through to what follows for known calls and other architectures."""
    program = enosys.prefix({AARCH64: 400, X86_64: 300, X86: 200}, X32_BIT | 250)
    program += struct.pack("=HBBI", 6, 0, 0, ALLOW)
    for arch, largest in ((AARCH64, 400), (X86_64, 300), (X86, 200), (X86_64, X32_BIT | 250)):
        assert evaluate(program, largest, arch=arch) == ALLOW
        assert evaluate(program, largest + 1, arch=arch) == ERRNO | errno.ENOSYS
    assert evaluate(program, 5000, arch=0x1234) == ALLOW


@_ON_X86_64
def test_arguments_of_one_rule(tmp_path: Path) -> None:
    """Comparisons of different arguments must all hold; of the same argument, any."""

    def argument(index: int, value: int, operator: str = "EQ", second: int = 0) -> dict[str, Any]:
        return {"index": index, "value": value, "op": f"SCMP_CMP_{operator}", "valueTwo": second}

    program = compiled(
        tmp_path,
        defaultAction="SCMP_ACT_ERRNO",
        syscalls=[
            allow("read", args=[argument(0, 5), argument(1, 1 << 40)]),
            allow("write", args=[argument(0, 5), argument(0, 6)]),
            allow("socket", args=[argument(2, 0xF00, "MASKED_EQ", 0x100)]),
            allow("mkdir", args=[argument(1, 1 << 33, "GT")]),
            allow("setns"),
        ],
    ).program
    denied = ERRNO | errno.EPERM
    assert evaluate(program, READ, 5, 1 << 40) == ALLOW
    assert evaluate(program, READ, 5, 0) == evaluate(program, READ, 4, 1 << 40) == denied
    assert evaluate(program, WRITE, 5) == evaluate(program, WRITE, 6) == ALLOW
    assert evaluate(program, WRITE, 7) == denied
    assert evaluate(program, SOCKET, 1, 1, 0x1FF) == ALLOW
    assert evaluate(program, SOCKET, 1, 1, 0x300) == denied
    assert evaluate(program, MKDIR, 0, (1 << 33) + 1) == ALLOW
    assert evaluate(program, MKDIR, 0, 1 << 33) == denied


def test_unknown_calls_are_skipped_and_told(tmp_path: Path) -> None:
    """A profile may name calls that this libseccomp does not know."""
    told: list[str] = []
    section = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [allow("read", "nobody_knows")]}
    assert seccomp.prepare({"linux": {"seccomp": section}}, str(tmp_path / "cache"), told.append)
    assert any("nobody_knows" in text for text in told)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({}, "linux.seccomp.defaultAction is missing"),
        ({"defaultAction": "SCMP_ACT_MAYBE"}, "linux.seccomp.defaultAction"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}, "takes no errno"),
        ({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4096}, "defaultErrnoRet"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_Z80"]}, "SCMP_ARCH_Z80"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_X"]}, "SECCOMP_FILTER_FLAG_X"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [], "action": "SCMP_ACT_LOG"}]}, "[0].names"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [allow("read"), {"names": ["read"]}]}, "[1].action"),
        (
            {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [allow("read", args=[{"index": 6, "op": "SCMP_CMP_EQ"}])]},
            "[0].args[0].index",
        ),
        (
            {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [allow("read", args=[{"index": 0, "op": "EQ"}])]},
            "[0].args[0].op",
        ),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["a"], "action": "SCMP_ACT_NOTIFY"}]}, "listenerPath"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"}, "listenerPath"),
    ],
)  # fmt: skip
def test_wrong_profile_is_refused_by_key(tmp_path: Path, section: dict[str, Any], words: str) -> None:
    """The message names what is wrong."""
    with pytest.raises(Failure) as caught:
        compiled(tmp_path, **section)
    assert words in str(caught.value)


def test_flags(tmp_path: Path) -> None:
    """SPEC_ALLOW unless flags are given; TSYNC means nothing here; WAIT_KILLABLE_RECV only with a listener."""
    prefix = "SECCOMP_FILTER_FLAG_"

    def flags(*names: str, **section: Any) -> int:
        words = [prefix + name for name in names]
        return compiled(tmp_path, defaultAction="SCMP_ACT_ALLOW", flags=words, **section).flags

    assert compiled(tmp_path, defaultAction="SCMP_ACT_ALLOW").flags == 4
    assert flags() == 0
    assert flags("TSYNC") == 0
    assert flags("LOG", "SPEC_ALLOW", "TSYNC") == 6
    assert flags("WAIT_KILLABLE_RECV") == 0
    asked = {"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}
    assert flags("WAIT_KILLABLE_RECV", syscalls=[asked], listenerPath="/agent") == 32 | 8


def test_annotation_brings_the_program(tmp_path: Path) -> None:
    """A compiled program in an annotation is taken as it is; nonsense is refused."""
    program = struct.pack("=HBBI", 6, 0, 0, ALLOW)
    config = {"annotations": {"run.oci.seccomp_bpf_data": base64.b64encode(program).decode()}}
    found = seccomp.prepare(config, str(tmp_path / "cache"))
    assert found is not None and found.program == program
    for text in ("!", "", base64.b64encode(program[:7]).decode()):
        with pytest.raises(Failure, match="seccomp_bpf_data"):
            seccomp.prepare({"annotations": {"run.oci.seccomp_bpf_data": text}}, str(tmp_path / "cache"))


class _Cached:
    """One profile and its entry in the cache."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.program = self.prepare()
        self.folder = directory / "cache"
        (self.entry,) = self.folder.iterdir()

    def prepare(self) -> bytes:
        return compiled(
            self._directory, defaultAction="SCMP_ACT_ERRNO", syscalls=[allow("read", "unheard_of")]
        ).program

    def is_used(self) -> bool:
        """Prepare the profile again and tell whether nothing was compiled for it."""
        told: list[str] = []
        section = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [allow("read", "unheard_of")]}
        found = seccomp.prepare({"linux": {"seccomp": section}}, str(self.folder), told.append)
        assert found is not None and found.program == self.program
        return not any("unheard_of" in text for text in told)


@pytest.fixture
def cached(tmp_path: Path) -> _Cached:
    """Give a compiled profile."""
    return _Cached(tmp_path)


def test_cache_is_private_and_used(cached: _Cached) -> None:
    """The second container of a profile compiles nothing."""
    assert cached.folder.stat().st_mode & 0o777 == 0o700
    assert cached.entry.stat().st_mode & 0o777 == 0o600
    assert cached.is_used()


def test_cache_key_covers_what_matters(cached: _Cached) -> None:
    """A profile that differs anywhere is another; flags and the listener are no part of the program."""
    base = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [allow("read")]}
    variants: list[dict[str, Any]] = [
        base,
        {**base, "defaultErrnoRet": 2},
        {**base, "architectures": ["SCMP_ARCH_X86"]},
        {**base, "syscalls": [allow("write")]},
        {**base, "syscalls": [allow("read", args=[{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}])]},
    ]
    for section in variants:
        seccomp.prepare({"linux": {"seccomp": section}}, str(cached.folder))
    assert len(list(cached.folder.iterdir())) == 1 + len(variants)
    seccomp.prepare({"linux": {"seccomp": {**base, "flags": []}}}, str(cached.folder))
    assert len(list(cached.folder.iterdir())) == 1 + len(variants)


def _damage_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def _make_writable(path: Path) -> None:
    path.chmod(0o666)


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def _open_folder(path: Path) -> None:
    path.parent.chmod(0o711)


@pytest.mark.parametrize(
    "attack", [_damage_end, _empty, _zero, _make_writable, _link, _make_fifo, _open_folder]
)
def test_cache_that_cannot_be_trusted_is_not_used(cached: _Cached, attack: Any) -> None:
    """A file that somebody else could have written, or that is damaged, is as good as none."""
    attack(cached.entry)
    assert not cached.is_used()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")
def test_cache_of_somebody_else_is_not_used(cached: _Cached) -> None:
    """Neither a foreign file nor a foreign directory is believed."""
    os.chown(cached.entry, 1000, 1000)
    assert not cached.is_used()
    assert cached.is_used()  # replaced by our own
    os.chown(cached.folder, 1000, 1000)
    assert not cached.is_used()


def test_cache_stays_small(tmp_path: Path) -> None:
    """Profiles that differ for each container do not fill the state directory."""
    for number in range(150):
        compiled(tmp_path, defaultAction="SCMP_ACT_ERRNO", defaultErrnoRet=number, syscalls=[allow("read")])
    assert len(list((tmp_path / "cache").iterdir())) <= 65


CLONE, PERSONALITY, MOUNT, IO_URING_SETUP, CLONE3, UNSHARE = 56, 135, 165, 425, 435, 272


@_ON_X86_64
def test_default_profile(tmp_path: Path) -> None:
    """Our own profile keeps what Docker's keeps from a container without special capabilities."""
    program = compiled(tmp_path, **default.profile(["CAP_CHOWN"])).program
    denied = ERRNO | errno.EPERM
    for number in (READ, WRITE, GETPID, MKDIR):
        assert evaluate(program, number) == ALLOW
    for number in (SETNS, MOUNT, UNSHARE, IO_URING_SETUP):
        assert evaluate(program, number) == denied
    assert evaluate(program, CLONE3) == ERRNO | errno.ENOSYS
    assert evaluate(program, CLONE, 0x1200011) == ALLOW  # fork
    assert evaluate(program, CLONE, 0x10000000 | 17) == denied  # in a new user namespace
    assert evaluate(program, PERSONALITY, 8) == ALLOW
    assert evaluate(program, PERSONALITY, 0x0040000) == denied  # without randomised addresses
    families = {family for family in range(60) if evaluate(program, SOCKET, family) == ALLOW}
    assert {1, 2, 10, 16, 17} <= families and not {38, 40} & families
    assert evaluate(program, 6, arch=X86) == ALLOW  # close of a 32-bit program
    assert evaluate(program, X32_BIT | READ) == ALLOW


@_ON_X86_64
@pytest.mark.parametrize(
    ("capability", "number"),
    [("CAP_SYS_ADMIN", MOUNT), ("CAP_SYS_CHROOT", 161), ("CAP_SYS_PTRACE", 312), ("CAP_SYS_TIME", 227)],
)
def test_default_profile_opens_with_capabilities(tmp_path: Path, capability: str, number: int) -> None:
    """A capability brings the calls that it guards in the kernel."""
    without = compiled(tmp_path, **default.profile([])).program
    with_it = compiled(tmp_path, **default.profile([capability])).program
    assert evaluate(without, number) == ERRNO | errno.EPERM
    assert evaluate(with_it, number) == ALLOW


def test_default_profile_knows_other_machines() -> None:
    """The tables serve aarch64 and riscv64 too."""
    assert "SCMP_ARCH_ARM" in default.profile([], "aarch64")["architectures"]
    assert "riscv_flush_icache" in default.profile([], "riscv64")["syscalls"][0]["names"]
