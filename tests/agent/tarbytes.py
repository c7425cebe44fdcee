"""Archives made byte by byte, honest and hostile, with the facts that a manifest would tell of them."""

import gzip
import hashlib
import io
import os
from dataclasses import replace
from pathlib import Path

import pytest

from fleetfoot_agent.worker.extract import ArtifactFacts, extract
from fleetfoot_protocol.errors import UpgradeError
from fleetfoot_protocol.tree import Member, tree_sha256

APP = b"#!/bin/sh\n:\n"
END = bytes(1024)
CHUNK = 4096


def header(
    name: bytes,
    size: int | bytes = 0,
    flag: bytes = b"0",
    mode: int | bytes = 0o644,
    target: bytes = b"",
    *,
    magic: bytes = b"ustar\x0000",
    checksum: int | None = None,
) -> bytes:
    """One tar header, byte by byte as POSIX lays it out; `bytes` stand in a number field as they are."""
    block = bytearray(512)
    block[0 : len(name)] = name
    block[100:108] = mode if isinstance(mode, bytes) else b"%07o\0" % mode
    block[108:124] = b"0000000\0" * 2
    block[124:136] = size if isinstance(size, bytes) else b"%011o\0" % size
    block[136:148] = b"%011o\0" % 0
    block[148:156] = b" " * 8
    block[156:157] = flag
    block[157 : 157 + len(target)] = target
    block[257:265] = magic
    block[148:156] = b"%06o\0 " % (sum(block) if checksum is None else checksum)
    return bytes(block)


def file(name: bytes, content: bytes = b"", mode: int = 0o644) -> bytes:
    return header(name, len(content), mode=mode) + padded(content)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def folder(name: bytes) -> bytes:
    return header(name + b"/", flag=b"5", mode=0o755)


def link(name: bytes, target: bytes) -> bytes:
    return header(name, flag=b"2", target=target)


def pax(records: bytes, flag: bytes = b"x") -> bytes:
    return header(b"././@PaxHeader", len(records), flag) + padded(records)


def record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(str(length)) + len(rest) != length:
        length += 1
    return str(length).encode() + rest


def zipped(archive: bytes) -> bytes:
    return gzip.compress(archive, mtime=0)


def index_of(blob: bytes, chunk_size: int) -> bytes:
    chunks = (blob[start : start + chunk_size] for start in range(0, len(blob), chunk_size))
    return b"".join(hashlib.sha256(chunk).digest() for chunk in chunks)


def file_member(path: str, content: bytes, mode: int = 0o644) -> Member:
    return Member("f", path, mode, len(content), hashlib.sha256(content).hexdigest())


def facts_of(blob: bytes, members: list[Member], chunk_size: int = CHUNK) -> ArtifactFacts:
    return ArtifactFacts(
        format="tar.gz",
        length=len(blob),
        sha256=hashlib.sha256(blob).hexdigest(),
        chunk_size=chunk_size,
        index=index_of(blob, chunk_size),
        unpacked_size=sum(member.size for member in members),
        member_count=len(members),
        tree_sha256=tree_sha256(members),
    )


def generous(blob: bytes) -> ArtifactFacts:
    """Facts that fit the blob and would allow much more than it holds."""
    return replace(facts_of(blob, []), unpacked_size=1 << 20, member_count=100)


PLAIN = folder(b"bin") + file(b"bin/app", APP, 0o755) + link(b"run", b"bin/app") + END
PLAIN_MEMBERS = [
    Member("d", "bin", 0o755),
    file_member("bin/app", APP, 0o755),
    Member("l", "run", target="bin/app"),
]
GZIP = zipped(PLAIN)


def extended(path: bytes = b"", target: bytes = b"") -> bytes:
    records = (record(b"path", path) if path else b"") + (record(b"linkpath", target) if target else b"")
    return pax(records)


def refusal(blob: bytes, facts: ArtifactFacts, destination: Path) -> UpgradeError:
    """The error of an extraction that fails, as it must, without leaving anything in or around."""
    descriptors = os.listdir("/proc/self/fd")
    with pytest.raises(UpgradeError) as caught:
        extract(io.BytesIO(blob), facts, destination)
    assert list(destination.iterdir()) == []
    assert list(destination.parent.iterdir()) == [destination]
    assert os.listdir("/proc/self/fd") == descriptors
    return caught.value
