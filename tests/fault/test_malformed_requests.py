# SPDX-License-Identifier: Apache-2.0
"""Malformed protocol messages to the direct session: it answers or ignores them, and goes on."""

import errno
import logging
import os
import socket
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import CAN_MOUNT
from tests.model.budget import FUZZ_SECONDS, SETTINGS, repeat
from tests.support import syscalls
from tests.support.union import DEADLINE
from unionfs.branches.branch import Branch
from unionfs.filesystem import UnionFilesystem
from unionfs.options.aufs import Options
from unionfs.session.direct.session import serve
from unionfs.session.latencies import Statistics

pytestmark = pytest.mark.skipif(not CAN_MOUNT, reason="a small filesystem of its own needs root")

HEADER = struct.Struct("=IIQQIIIHH")
REPLY = struct.Struct("=IiQ")
INIT, STATFS, FORGET, BATCH_FORGET, INTERRUPT, SYNCFS = 26, 17, 2, 42, 36, 50
SETATTR, READ, WRITE, RELEASE, READDIR, RELEASEDIR = 4, 15, 16, 18, 28, 29
FALLOCATE, READDIRPLUS, LSEEK, COPY_FILE_RANGE = 43, 44, 46, 47
NOTIFY_INVAL_INODE, NOTIFY_INVAL_ENTRY, NOTIFY_STORE, NOTIFY_DELETE = 2, 3, 4, 6
UNKNOWN = 1 << 40  # a handle's number
SILENT = (FORGET, BATCH_FORGET, INTERRUPT)
SENTINEL = 1 << 60

# No slash: the kernel never sends one in a name, and the test must not reach out of its directory.
NAMES = st.binary(max_size=300).map(lambda data: data.replace(b"/", b"."))
WORDS = st.lists(
    st.one_of(
        st.integers(0, 3), st.integers(0, (1 << 64) - 1), st.sampled_from([1 << 63, (1 << 64) - 1, 1 << 32])
    ),
    max_size=13,
).map(lambda words: struct.pack(f"={len(words)}Q", *words).replace(b"/", b"."))
BODIES = st.one_of(
    NAMES,
    st.tuples(WORDS, NAMES).map(b"".join),
    st.tuples(st.binary(max_size=80).map(lambda data: data.replace(b"/", b".")), NAMES, st.just(b"\0")).map(
        b"".join
    ),
)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Draw a message: mostly a known operation on a node that may exist, with any body, extension length and size."""
    opcode = draw(
        st.one_of(st.integers(1, 53), st.integers(0, (1 << 32) - 1)).filter(lambda code: code != SYNCFS)
    )
    nodeid = draw(st.one_of(st.just(1), st.integers(0, (1 << 64) - 1)))
    body = draw(BODIES)
    uid, pid = draw(st.sampled_from([0, 1000, (1 << 32) - 1])), draw(st.sampled_from([0, os.getpid()]))
    extension = draw(st.sampled_from([0, 0, 0, 1, 2, 65535]))
    length = draw(st.sampled_from([HEADER.size + len(body)] * 3 + [0, (1 << 32) - 1]))
    unique = draw(st.integers(2, SENTINEL - 1))
    message = HEADER.pack(length, opcode, unique, nodeid, uid, uid, pid, extension, 0) + body
    return message[: draw(st.sampled_from([len(message)] * 5 + [1, 8, 39, 41]))]


@pytest.fixture(scope="module")
def branches() -> Iterator[tuple[Branch, ...]]:
    """Give two branches on a filesystem so small that no request can ask for much."""
    with tempfile.TemporaryDirectory(prefix="unionfs-test-") as root:
        syscalls.mount("none", root, "tmpfs", 0, "size=16m,nr_inodes=2000")
        try:
            for name in ("rw", "ro"):
                Path(root, name).mkdir()
            Path(root, "ro/file").write_text("f")
            yield Branch(f"{root}/rw", "rw"), Branch(f"{root}/ro", "ro")
        finally:
            syscalls.umount2(root, syscalls.MNT_DETACH)


def _request(opcode: int, unique: int, body: bytes = b"", nodeid: int = 1) -> bytes:
    return HEADER.pack(HEADER.size + len(body), opcode, unique, nodeid, 0, 0, 0, 0, 0) + body


def _check_notification(code: int, body: bytes) -> None:
    """Hold what is told to the kernel unasked against its form: fixed words, then a name that ends in NUL, or data."""
    if code == NOTIFY_INVAL_INODE:
        assert len(body) == 24  # nodeid, offset, length
    elif code == NOTIFY_STORE:
        _nodeid, _offset, size = struct.unpack_from("=QQI4x", body)
        assert len(body) == 24 + size
    else:
        form = {NOTIFY_INVAL_ENTRY: struct.Struct("=QII"), NOTIFY_DELETE: struct.Struct("=QQI4x")}[code]
        length = form.unpack_from(body)[1 if code == NOTIFY_INVAL_ENTRY else 2]
        name = body[form.size :]
        assert len(name) == length + 1 and name.endswith(b"\0") and b"\0" not in name[:-1]


async def _converse(filesystem: UnionFilesystem, requests: list[bytes]) -> list[bytes]:
    """Send `requests` one by one, each followed by a STATFS that must be answered; return the other answers."""
    device, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    replies: list[bytes] = []
    with kernel:
        end = trio.socket.from_stdlib_socket(kernel)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, filesystem, device.detach(), Statistics())
            init = struct.pack("=IIIII44x", 7, 41, 131072, 0xFFFFFFFF, 0)
            for number, request in enumerate([_request(INIT, 2, init), *requests]):
                await end.send(request)
                await end.send(_request(STATFS, SENTINEL + number))
                with trio.fail_after(DEADLINE):
                    while True:
                        reply = await end.recv(1 << 21)
                        length, error, unique = REPLY.unpack_from(reply)
                        assert length == len(reply)
                        if unique == 0:
                            _check_notification(error, reply[REPLY.size :])
                            continue
                        assert -4096 < error <= 0
                        if unique == SENTINEL + number:
                            assert error == 0
                            break
                        replies.append(reply)
            nursery.cancel_scope.cancel()
    return replies


def _serve(branches: tuple[Branch, ...], requests: list[bytes]) -> list[bytes]:
    filesystem = UnionFilesystem.open(branches, Options(fsync=False))
    try:
        return trio.run(_converse, filesystem, requests)
    finally:
        filesystem.close()


@pytest.mark.timeout(0 if FUZZ_SECONDS else 900)
def test_malformed_messages_are_answered_or_ignored(branches: tuple[Branch, ...]) -> None:
    """Whatever is sent, the next request is answered, at most one answer goes to each, and none is malformed."""

    @settings(SETTINGS, max_examples=150)
    @given(requests=st.lists(messages(), min_size=1, max_size=12))
    def run(requests: list[bytes]) -> None:
        assert len(_serve(branches, requests)) <= len(requests) + 1

    logging.disable(logging.CRITICAL)  # each malformed message may be worth a line
    try:
        repeat(run)
    finally:
        logging.disable(logging.NOTSET)


def test_notifications_are_no_answers(branches: tuple[Branch, ...]) -> None:
    """Ten lookups and a listing of few bytes make the server tell the kernel about names, with no request of its own."""
    lookups = [_request(1, 8 + number, b"file\0") for number in range(10)]
    listing = _request(READDIRPLUS, 18, struct.pack("=QQI20x", 0, 0, 200))
    answers = _serve(branches, [*lookups, listing])
    assert [REPLY.unpack_from(answer)[2] for answer in answers] == [2, *range(8, 19)]


def test_unknown_operation_is_enosys(branches: tuple[Branch, ...]) -> None:
    """So a newer kernel learns what it need not ask again."""
    (_, reply) = _serve(branches, [_request(4000, 8)])
    assert REPLY.unpack(reply) == (REPLY.size, -errno.ENOSYS, 8)


@pytest.mark.parametrize("opcode", sorted(set(range(1, 53)) - {INIT, *SILENT, 7, 19, 49, SYNCFS}))
def test_request_without_a_body_is_answered_once(branches: tuple[Branch, ...], opcode: int) -> None:
    """Every kind of request that lacks what must follow its header gets an answer."""
    logging.disable(logging.CRITICAL)
    try:
        replies = _serve(branches, [_request(opcode, 8)])
    finally:
        logging.disable(logging.NOTSET)
    assert [REPLY.unpack_from(reply)[2] for reply in replies] == [2, 8]


@pytest.mark.parametrize(
    ("opcode", "body"),
    [
        (SETATTR, struct.pack("=IIQQ", 1 << 6 | 1 << 3, 0, UNKNOWN, 0).ljust(88, b"\0")),
        (READ, struct.pack("=QQI20x", UNKNOWN, 0, 4096)),
        (WRITE, struct.pack("=QQI20xc", UNKNOWN, 0, 1, b"x")),
        (RELEASE, struct.pack("=Q16x", UNKNOWN)),
        (READDIR, struct.pack("=QQI20x", UNKNOWN, 0, 4096)),
        (RELEASEDIR, struct.pack("=Q16x", UNKNOWN)),
        (FALLOCATE, struct.pack("=QQQ8x", UNKNOWN, 0, 1)),
        (READDIRPLUS, struct.pack("=QQI20x", UNKNOWN, 0, 4096)),
        (LSEEK, struct.pack("=QQI4x", UNKNOWN, 0, os.SEEK_DATA)),
        (COPY_FILE_RANGE, struct.pack("=QQQQQQQ", UNKNOWN, 0, 1, UNKNOWN, 0, 1, 0)),
    ],
)
def test_unknown_handle_is_ebadf(
    branches: tuple[Branch, ...], caplog: pytest.LogCaptureFixture, opcode: int, body: bytes
) -> None:
    """A handle number that nobody was given is the caller's mistake, not a failure of ours to be logged."""
    (_, reply) = _serve(branches, [_request(opcode, 8, body)])
    assert REPLY.unpack(reply) == (REPLY.size, -errno.EBADF, 8)
    assert not caplog.records


@pytest.mark.parametrize("data_only", [False, True])
def test_fsync_of_unknown_handle_is_ebadf(branches: tuple[Branch, ...], data_only: bool) -> None:
    """The same where the work is done in a thread."""
    filesystem = UnionFilesystem.open(branches, Options(fsync=False))
    try:
        with pytest.raises(OSError) as caught:
            filesystem.write_back(UNKNOWN, data_only=data_only)
        assert caught.value.errno == errno.EBADF
    finally:
        filesystem.close()


def test_forgets_are_never_answered(branches: tuple[Branch, ...]) -> None:
    """Too many, too few and unknown ones: nothing is sent back."""
    requests = [
        _request(FORGET, 8, struct.pack("=Q", 1 << 63), nodeid=77),
        _request(BATCH_FORGET, 10, struct.pack("=IIQQ", 1, 0, 77, 5)),
        _request(BATCH_FORGET, 12, struct.pack("=IIQQ", 0xFFFFFFFF, 0, 77, 5)),
    ]
    assert [REPLY.unpack_from(reply)[2] for reply in _serve(branches, requests)] == [2]
