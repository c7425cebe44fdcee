"""What is read past paho is what paho would have read, whatever comes and however it is cut."""

import random
import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from fleetfoot_manager import netloop
from fleetfoot_manager.mqtt import _Link
from fleetfoot_manager.netloop import BufferedClient, NetworkLoop, next_message

Message = tuple[bytes, bytes, bool]


def publish(
    topic: bytes, payload: bytes, *, mid: int = 0, retain: bool = False, again: bool = False
) -> bytes:
    body = struct.pack("!H", len(topic)) + topic + (struct.pack("!H", mid) if mid else b"") + payload
    length, digits = len(body), bytearray()
    while True:
        length, digit = divmod(length, 128)
        digits.append(digit | (0x80 if length else 0))
        if not length:
            break
    first = 0x30 | (0x02 if mid else 0) | (0x08 if again else 0) | (0x01 if retain else 0)
    return bytes([first]) + bytes(digits) + body


class Rig:
    """A client behind a socket whose other end is the test's."""

    def __init__(self, *, ahead: bool) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.client = BufferedClient(CallbackAPIVersion.VERSION2, client_id="c", reconnect_on_failure=False)
        self.client.suppress_exceptions = False
        self.came: list[Message] = []
        self.express = 0
        self.client.on_message = self._by_paho
        if ahead:
            self.client.taker = self._taken
        self.client.connect("127.0.0.1", self.listener.getsockname()[1])
        self.peer, _ = self.listener.accept()
        self.peer.settimeout(10)
        self.loop = NetworkLoop(self.client, lambda: len(self.came), lambda: None)
        self.peer.sendall(b"\x20\x02\x00\x00")
        while not self.client.is_connected():
            self.loop.turn()
        self.sent = b""

    def _by_paho(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        self.came.append((message.topic.encode(), bytes(message.payload), message.retain))

    def _taken(self, topic: bytes, payload: bytes, retained: bool) -> None:
        self.express += 1
        self.came.append((topic, payload, retained))

    def feed(self, stream: bytes, wanted: int, cuts: list[int]) -> None:
        begin = 0
        for cut in [*cuts, len(stream)]:
            self.peer.sendall(stream[begin:cut])
            self.loop.turn()
            begin = cut
        end = time.monotonic() + 10
        while len(self.came) < wanted and time.monotonic() < end:
            self.loop.turn()

    def acknowledged(self, count: int) -> list[int]:
        """The numbers of so many PUBACKs, behind the CONNECT."""
        while self.client.want_write():
            self.loop.turn()
        said = b""
        while b"\x40\x02" not in said or len(said) - said.index(b"\x40\x02") < 4 * count:
            said += self.peer.recv(65536)
        acks = said[said.index(b"\x40\x02") :]
        assert len(acks) == 4 * count
        assert all(acks[i : i + 2] == b"\x40\x02" for i in range(0, len(acks), 4))
        return [int.from_bytes(acks[i + 2 : i + 4], "big") for i in range(0, len(acks), 4)]

    def close(self) -> None:
        self.client.disconnect()
        while self.client.socket() is not None:
            self.loop.turn()
        self.loop.close()
        self.client.on_message = None
        self.client.taker = None
        self.peer.close()
        self.listener.close()


@contextmanager
def rig(*, ahead: bool = True) -> Iterator[Rig]:
    made = Rig(ahead=ahead)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("seed", range(6))
def test_the_same_messages_come_in_the_same_order_and_are_acknowledged(seed: int) -> None:
    draw = random.Random(seed)  # noqa: S311
    packets, numbers, wanted = [], [], []
    for number in range(1, 300):
        topic = b"ff/v1/" + bytes(draw.choices(b"abc/", k=draw.randint(1, 200)))
        payload = draw.randbytes(draw.choice((0, 1, 60, 130, 900, 20_000)))
        mid = number if draw.random() < 0.8 else 0
        facts = {"retain": draw.random() < 0.3, "again": bool(mid) and draw.random() < 0.1}
        packets.append(publish(topic, payload, mid=mid, **facts))
        numbers += [mid] if mid else []
        wanted.append((topic, payload, facts["retain"]))
        if draw.random() < 0.1:
            packets.append(b"\xd0\x00")  # PINGRESP, which is paho's
    stream = b"".join(packets)
    cuts = sorted(draw.randrange(len(stream)) for _ in range(draw.choice((0, 3, 30))))
    for ahead in (True, False):
        with rig(ahead=ahead) as made:
            made.feed(stream, len(wanted), cuts)
            assert made.came == wanted
            assert made.acknowledged(len(numbers)) == numbers
            assert (made.express > len(wanted) // 2) == ahead


def test_what_is_odd_is_left_to_paho() -> None:
    good = publish(b"a/b", b"xyz", mid=7, retain=True)
    assert next_message(good, 0) == (b"a/b", b"xyz", 0x33, b"\0\7", len(good))
    assert next_message(b"??" + good, 2) == (b"a/b", b"xyz", 0x33, b"\0\7", len(good) + 2)
    odd = {
        "QoS 2": bytes([0x34]) + good[1:],
        "QoS 3": bytes([0x36]) + good[1:],
        "another kind": bytes([0x40]) + good[1:],
        "no topic": publish(b"", b"xyz", mid=7),
        "number 0": publish(b"a", b"", mid=7).replace(b"\0\7", b"\0\0"),
        "a topic beyond its packet": b"\x30\x04\x00\x09ab",
        "no room for a number": b"\x32\x04\x00\x01a\x00",
        "no body": b"\x30\x00",
        "a length of five bytes": b"\x30\xff\xff\xff\xff\x01" + good,
    }
    assert {what for what, data in odd.items() if next_message(data, 0) is not None} == set()
    assert [cut for cut in range(len(good)) if next_message(good[:cut], 0) is not None] == []


def test_a_message_that_nobody_may_send_ends_the_connection() -> None:
    with rig() as made:
        made.peer.sendall(
            publish(b"a", b"1", mid=1) + b"\x36\x05\x00\x01a\x00\x02" + publish(b"a", b"2", mid=3)
        )
        end = time.monotonic() + 10
        while made.client.socket() is not None and time.monotonic() < end:
            made.loop.turn()
        assert made.client.socket() is None
        assert made.came[:1] == [(b"a", b"1", False)]
        assert (b"a", b"2", False) not in made.came


def test_without_what_is_not_public_everything_goes_through_paho(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netloop, "_OURS", False)
    with rig() as made:
        made.feed(b"".join(publish(b"a", b"%d" % n, mid=n) for n in range(1, 50)), 49, [])
        assert len(made.came) == 49
        assert made.express == 0


def test_what_has_come_and_was_not_read_is_told_from_silence() -> None:
    with rig() as one:
        one.loop.wake()
        one.loop.turn()
        silent = one.loop.read_up_to
        one.peer.sendall(publish(b"a", b"1"))
        sock = one.client.socket()
        assert sock is not None
        select.select([sock], [], [], 10)
        one.loop.turn()
        assert one.came == [(b"a", b"1", False)]
        assert one.loop.read_up_to == silent
        one.loop.wake()
        one.loop.turn()
        assert one.loop.read_up_to > silent


def test_an_acknowledgement_is_overdue_only_by_what_was_read() -> None:
    link = _Link(1, lambda _: None)
    link.sent(7)
    sent = time.monotonic()
    assert not link.overdue(30.0, sent + 29.0)
    assert link.overdue(30.0, sent + 31.0)
    link.on_publish(mqtt.Client(CallbackAPIVersion.VERSION2), None, 7, None, None)
    assert not link.overdue(30.0, sent + 31.0)
