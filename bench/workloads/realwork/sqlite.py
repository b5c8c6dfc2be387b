# SPDX-License-Identifier: Apache-2.0
"""SQLite with a write-ahead log: many small transactions, each on the disk when it returns, then rows at random."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

from bench.machine.client import Figures, Place, expect
from bench.machine.layers import pattern
from bench.workloads.model import Figure, MiB, Workload
from bench.workloads.realwork.command import sample, timed

_ROWS = 20_000
_BATCH = 50  # rows a transaction
_READS = 40_000
_VALUE = 400  # bytes


@contextmanager
def _opened(place: Place) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(place.path("bench.db"), isolation_level=None)) as database:
        mode = database.execute("pragma journal_mode=wal").fetchone()[0]
        expect(mode == "wal", f"SQLite falls back to journal mode {mode}: no shared memory maps here")
        database.execute("pragma synchronous=full")
        yield database


def _insert(database: sqlite3.Connection) -> None:
    for start in range(0, _ROWS, _BATCH):
        database.execute("begin")
        rows = [(key, pattern(key, _VALUE)) for key in range(start, start + _BATCH)]
        database.executemany("insert into t values (?, ?)", rows)
        database.execute("commit")


def _select(database: sqlite3.Connection, keys: list[int]) -> None:
    for key in keys:
        value = database.execute("select v from t where k = ?", (key,)).fetchone()[0]
        expect(value == pattern(key, _VALUE), f"row {key} is wrong")


def _run(place: Place) -> Figures:
    with _opened(place) as database:
        database.execute("create table t (k integer primary key, v blob)")
        with timed(place) as inserting:
            _insert(database)
    keys = random.Random(1).choices(range(_ROWS), k=_READS)
    with _opened(place) as database:
        database.execute(
            "pragma cache_size=16"
        )  # pages: what is read comes from the target, not from SQLite's cache
        with timed(place) as selecting:
            _select(database, keys)
        expect(database.execute("select count(*) from t").fetchone() == (_ROWS,), "rows are lost")
        expect(database.execute("pragma integrity_check").fetchone() == ("ok",), "the database is damaged")
    return {"sqlite-insert": sample(inserting, _ROWS // _BATCH), "sqlite-select": sample(selecting, _READS)}


WORKLOADS = (
    Workload("sqlite", "realwork", (
        Figure("sqlite-insert", f"SQLite, WAL: {_ROWS:,} rows in {_ROWS // _BATCH} transactions", state="to the disk"),
        Figure("sqlite-select", f"SQLite, WAL: {_READS:,} rows at random", state="page cache warm")),
        _run, size=32 * MiB, limit=180, seconds=1.5),
)  # fmt: skip
