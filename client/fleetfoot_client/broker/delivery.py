"""Checks of what is delivered: retained messages, order, duplicates, size, a reader that stands still."""

import itertools
import secrets
import time
from collections.abc import Callable, Iterator

from fleetfoot_client.broker.target import PATIENCE, Target, UnseenError
from fleetfoot_client.broker.wire import Message, Peer

_BURST = 100
_STREAM = 200
_SLOW = (30, 10, 8192)  # batches, messages in each, bytes in each message
_LONGEST = 20.0
MAX_PAYLOAD = 65536

#: What a check finds: (whether it holds, detail). `FAILURES` and `UnseenError` may be raised too.
Found = tuple[bool, str]
Check = Callable[[Target], Found]


def admitted(target: Target) -> None:
    """Raise `UnseenError` if the broker does not let us work below our root."""
    topic = target.topic("admitted")
    with target.peer() as peer:
        granted = peer.subscribe(topic)
        if granted[0] < 0x80 and peer.publish(topic, b"1") < 0x80 and peer.receive(PATIENCE) is not None:
            return
    raise UnseenError("the broker denies this identity topics below ffcheck/")


def _arrives(reader: Peer, payload: bytes) -> Message | None:
    """The first message with this payload, None if it does not come."""
    deadline = time.monotonic() + PATIENCE
    while (message := reader.receive(deadline - time.monotonic())) is not None:
        reader.acknowledge(message)
        if message.payload == payload:
            return message
    return None


def retained_exact(target: Target) -> Found:
    """A retained message comes to whoever subscribes to its name later, and says that it was retained."""
    topic, payload = target.topic("retained/exact"), secrets.token_bytes(16)
    with target.peer() as writer, target.peer() as reader:
        writer.publish(topic, payload, retained=True)
        reader.subscribe(topic)
        message = _arrives(reader, payload)
    if message is None:
        return False, "a later subscriber by the exact name gets nothing"
    return message.retained, "delivered" if message.retained else "delivered, but not marked as retained"


def retained_wildcard(target: Target) -> Found:
    """The same for a subscription with a wildcard."""
    payloads = [secrets.token_bytes(16) for _ in range(3)]
    with target.peer() as writer, target.peer() as reader:
        for number, payload in enumerate(payloads):
            writer.publish(target.topic(f"wildcard/{number}/retained"), payload, retained=True)
        reader.subscribe(target.filter("wildcard/+/retained"))
        came = set(_distinct(reader, len(payloads)))
    return came == set(payloads), f"{len(came)} of {len(payloads)} delivered"


def retained_reconnect(target: Target) -> Found:
    """It comes again to a subscriber that was there before, has left and connects anew."""
    topic, payload, name = target.topic("retained/reconnect"), secrets.token_bytes(16), target.client_id()
    with target.peer() as writer, target.peer(name) as reader:
        reader.subscribe(topic)
        writer.publish(topic, payload, retained=True)
        if _arrives(reader, payload) is None:
            return False, "not even delivered while connected"
    with target.peer(name) as reader:
        reader.subscribe(topic)
        again = _arrives(reader, payload) is not None
    return again, "delivered again" if again else "nothing after the reconnect"


def packet_size(target: Target) -> Found:
    """A payload of 64 KiB passes as it is."""
    topic, payload = target.topic("size"), secrets.token_bytes(MAX_PAYLOAD)
    with target.peer() as writer, target.peer() as reader:
        reader.subscribe(topic)
        writer.publish(topic, payload)
        whole = _arrives(reader, payload) is not None
    return whole, "64 KiB pass" if whole else "64 KiB do not arrive, or not as they were sent"


def acknowledged_kept(target: Target) -> Found:
    """What was acknowledged arrives, although its publisher leaves at once."""
    topic = target.topic("burst")
    with target.peer() as reader:
        reader.subscribe(topic)
        with target.peer() as writer:
            writer.post_all(topic, [str(number).encode() for number in range(_BURST)])
            for _ in range(_BURST):
                writer.acknowledgement()
        came = _distinct(reader, _BURST)
    return len(came) == _BURST, f"{len(came)} of {_BURST} acknowledged messages arrived"


def _distinct(reader: Peer, count: int) -> list[bytes]:
    """Payloads in the order in which each came first, until there are `count`.

    Given up when nothing came for `PATIENCE`: a cluster that is busy is slow, and has lost nothing.
    """
    came: dict[bytes, None] = {}
    for message in _until_silent(reader):
        reader.acknowledge(message)
        came.setdefault(message.payload)
        if len(came) == count:
            break
    return list(came)


def _until_silent(reader: Peer) -> Iterator[Message]:
    """Messages as they come, until none came for `PATIENCE`, or for `_LONGEST` altogether."""
    over = time.monotonic() + _LONGEST
    while time.monotonic() < over and (message := reader.receive(PATIENCE)) is not None:
        yield message


def _stream(target: Target, name: str) -> list[int]:
    """Numbers as they arrive from one publisher on one topic, everything that comes included."""
    topic = target.topic(name)
    with target.peer() as writer, target.peer() as reader:
        reader.subscribe(topic)
        for number in range(_STREAM):
            writer.post(topic, str(number).encode())
        came: list[int] = []
        for message in _until_silent(reader):
            # What comes again is not acknowledged again: its packet id may stand for a later message by now.
            if int(message.payload) not in came:
                reader.acknowledge(message)
            came.append(int(message.payload))
            if len(set(came)) == _STREAM:
                break
        reader.ping()
        came += [int(message.payload) for message in reader.collect(_STREAM, 0.2)]
    return came


def ordering(target: Target) -> Found:
    """One publisher, one topic: everything arrives in order. Something that comes again does not count."""
    came = list(dict.fromkeys(_stream(target, "order")))
    if len(came) < _STREAM:
        return False, f"{len(came)} of {_STREAM} arrived"
    wrong = sum(later < earlier for earlier, later in itertools.pairwise(came))
    return (
        wrong == 0,
        f"{_STREAM} in order" if not wrong else f"{wrong} of {_STREAM} came before an older one",
    )


def duplicates(target: Target) -> Found:
    """Nothing comes twice while nobody reconnects."""
    came = _stream(target, "twice")
    twice = len(came) - len(set(came))
    return twice == 0, f"{twice} of {_STREAM} came again"


def slow_consumer(target: Target) -> Found:
    """A reader that stands still neither holds up others nor misses anything once it goes on."""
    topic = target.topic("slow")
    batches, size, length = _SLOW
    total = batches * size
    with target.peer() as writer, target.peer() as quick, target.peer(receive_buffer=8192) as slow:
        quick.subscribe(topic)
        slow.subscribe(topic)
        for batch in range(batches):
            for number in range(size):
                writer.post(topic, f"{batch * size + number:0{length}d}".encode())
            if len(_distinct(quick, size)) < size:
                return False, f"others are held up after {batch * size} messages"
        came = len(_distinct(slow, total))
    return came == total, f"others were not held up; it got {came} of {total} once it read again"
