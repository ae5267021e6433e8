"""LmdbLog: the log of the shared journal in LMDB, as a rival in benchmarks/journal.py. Not in the product.

Needs ``pip install lmdb``. Without waiting for the disk (``sync=False``), as the others are; with ``writemap`` a killed
process harms nothing, but when the machine goes down the file may be unreadable, where others lose the last rows only.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb

from servicebus.runtime.journal.interface import JournalUnavailable
from servicebus.runtime.journal.ledger import Changes
from servicebus.runtime.journal.log import Row, Saved
from servicebus.runtime.journal.records import Compaction, Kind

_SEQ = struct.Struct(">Q")
_ENTRY = struct.Struct("<QIII")
_STATE = struct.Struct("<QIIIQQIII")
_MAP_BYTES = 1 << 30


class LmdbLog:
    """A Log. One environment per process: LMDB allows no more."""

    def __init__(self, path: Path):
        self._path = path
        self._env = lmdb.open(
            str(path), map_size=_MAP_BYTES, max_dbs=4, subdir=False, writemap=True, map_async=True, sync=False,
            metasync=False,
        )  # fmt: skip
        self._log, self._chunks, self._entries, self._meta = (
            self._env.open_db(name) for name in (b"log", b"chunks", b"entries", b"meta")
        )
        self._open: Any = None
        self._trimmed = 0

    def append(self, kind: int, data: bytes) -> int:
        try:
            if self._open is not None:
                return self._append(self._open, kind, data)
            with self._env.begin(write=True) as txn:
                return self._append(txn, kind, data)
        except lmdb.Error as error:
            raise JournalUnavailable(str(self._path), str(error)) from error

    def append_both(self, first: tuple[int, bytes], second: tuple[int, bytes]) -> int:
        with self.transaction():
            self.append(*first)
            return self.append(*second)

    def _append(self, txn: Any, kind: int, data: bytes) -> int:
        cursor = txn.cursor(self._log)
        seq = _SEQ.unpack(cursor.key())[0] + 1 if cursor.last() else 1
        cursor.put(_SEQ.pack(seq), bytes((kind,)) + data, append=True)
        return int(seq)

    def read(self, after: int, before: int | None = None) -> list[Row]:
        rows = []
        with self._reading() as txn:
            cursor = txn.cursor(self._log)
            found = cursor.set_range(_SEQ.pack(after + 1))
            while found:
                key, value = cursor.item()
                seq = _SEQ.unpack(key)[0]
                if before is not None and seq >= before:
                    break
                rows.append((seq, value[0], value[1:]))
                found = cursor.next()
        return rows

    def data(self, seq: int) -> bytes | None:
        with self._reading() as txn:
            value = txn.get(_SEQ.pack(seq), db=self._log)
        return None if value is None else value[1:]

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._env.begin(write=True) as txn:
            self._open = txn
            try:
                yield
            finally:
                self._open = None

    def save(self, seq: int, compaction: Compaction, changes: Changes, totals: tuple[int, int]) -> None:
        txn = self._open
        for key, expires, bits in changes.chunks:
            data = expires.to_bytes(4, "little") + bits.to_bytes((bits.bit_length() + 7) // 8, "little")
            txn.put(_key(key), data, db=self._chunks)
        for key in changes.lost_chunks:
            txn.delete(_key(key), db=self._chunks)
        for number, entry in changes.entries:
            txn.put(_key(number), _ENTRY.pack(*entry), db=self._entries)
        for number in changes.lost_entries:
            txn.delete(_key(number), db=self._entries)
        self._trim(txn, compaction)
        txn.put(b"state", _STATE.pack(seq, *compaction, *totals), db=self._meta)

    def _trim(self, txn: Any, compaction: Compaction) -> None:
        cursor = txn.cursor(self._log)
        found = cursor.first()
        while found and _SEQ.unpack(cursor.key())[0] < min(compaction.keep_from, compaction.trim_to + 1):
            found = cursor.delete()
        found = cursor.set_range(_SEQ.pack(self._trimmed + 1))
        while found and _SEQ.unpack(cursor.key())[0] <= compaction.trim_to:
            found = cursor.delete() if cursor.value()[0] != Kind.ANSWERS else cursor.next()
        self._trimmed = compaction.trim_to

    def load(self) -> Saved:
        with self._reading() as txn:
            state = txn.get(b"state", db=self._meta)
            seq, *rest = _STATE.unpack(state) if state else (0,) * 9
            chunks = [
                (int.from_bytes(key, "big"), int.from_bytes(value[:4], "little"), int.from_bytes(value[4:], "little"))
                for key, value in txn.cursor(self._chunks)
            ]
            entries = [(int.from_bytes(key, "big"), _ENTRY.unpack(value)) for key, value in txn.cursor(self._entries)]
        return Saved(seq, Compaction(*rest[:6]), rest[6], rest[7], chunks, entries, self.read(0))

    def new_owner(self) -> int:
        with self._env.begin(write=True, db=self._meta) as txn:
            number = _SEQ.unpack(txn.get(b"owner", _SEQ.pack(0)))[0] + 1
            txn.put(b"owner", _SEQ.pack(number))
        return int(number)

    def checkpoint_soon(self) -> None:
        """The kernel writes dirty pages by itself; their order is its own."""

    def close(self) -> None:
        self._env.close()

    @contextmanager
    def _reading(self) -> Iterator[Any]:
        if self._open is not None:
            yield self._open
            return
        with self._env.begin() as txn:
            yield txn


def _key(number: int) -> bytes:
    return number.to_bytes(16, "big")
