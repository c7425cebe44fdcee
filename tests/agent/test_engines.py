"""gzip by ISA-L and by zlib: the same bytes, the same refusals, whichever is installed."""

import gzip
import importlib
import zlib
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from fleetfoot_agent.worker import gunzip
from fleetfoot_agent.worker.gunzip import PIECE, GzipStream
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.errors import UpgradeError

CONTENT = Random(1).randbytes(3 << 20) + bytes(5 << 20)  # noqa: S311
PACKED = gzip.compress(CONTENT, mtime=0)


@pytest.fixture(params=["isal.isal_zlib", "zlib"], autouse=True)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    module = importlib.import_module(request.param)
    monkeypatch.setattr(gunzip, "_ENGINE", module)
    return module


def chunks(data: bytes, size: int = 70_001) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def unpacked(data: bytes) -> bytes:
    stream = GzipStream(chunks(data))
    pieces = []
    for piece in stream.rest():
        assert len(piece) <= PIECE
        pieces.append(bytes(piece))
    return b"".join(pieces)


def test_bytes_come_out_as_they_went_in_and_piece_by_piece() -> None:
    assert unpacked(PACKED) == CONTENT


@pytest.mark.parametrize(
    "damaged",
    [
        PACKED[:-1],
        PACKED[:-9],
        PACKED[: len(PACKED) // 2],
        b"",
        PACKED + b"x",
        PACKED + PACKED,
        PACKED[:-8] + b"abcd" + PACKED[-4:],  # CRC
        PACKED[:-4] + b"abcd",  # length
        PACKED[:100] + b"\xff" * 50 + PACKED[150:],
        b"\x1f\x8c" + PACKED[2:],
        zlib.compress(CONTENT),
    ],
    ids=["byte short", "trailer short", "half", "empty", "byte more", "member more", "crc", "length",
         "garbage", "magic", "zlib"],
)  # fmt: skip
def test_what_is_damaged_is_refused(damaged: bytes) -> None:
    with pytest.raises(UpgradeError) as caught:
        unpacked(damaged)
    assert caught.value.upgrade_code is Code.UPGRADE_ARCHIVE_REFUSED


def test_the_fast_engine_is_taken_where_it_is_installed() -> None:
    assert gunzip._engine().__name__ == "isal.isal_zlib"


def test_without_it_there_is_zlib(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    assert gunzip._engine() is zlib
