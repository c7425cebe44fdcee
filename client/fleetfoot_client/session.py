"""The operators' SDK: signed requests to the manager, verified replies, and watching what is published.

    with Session(profiles.choose(None, os.environ)) as session:
        print(session.request("device.list", arguments={"group": "ovens"}))

A request is signed with the operator's key; a reply counts only if the director of the profile's trust
root signed it, for this fleet, operator and request. Anything else on the replies topic is counted in
`ignored` and changes nothing.
"""

import logging
import queue
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from pydantic import ValidationError

from fleetfoot_client import keyfiles, roots
from fleetfoot_client.link import Link, deadline
from fleetfoot_client.profiles import Profile
from fleetfoot_protocol import dsse, times, topics, trust
from fleetfoot_protocol.dsse import PayloadType
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.reports import Reply, Request
from fleetfoot_protocol.topics import Kind, Topic

log = logging.getLogger(__name__)

#: Seconds after which a request that was not answered is sent again, once, byte for byte.
RESEND_AFTER = 5.0
#: Seconds that a request lives, at least; the contract permits five minutes.
_LIFE = 60
_MAX_LIFE = 300
#: Messages that wait to be looked at; more are dropped and counted, so that memory is bounded.
_BACKLOG = 10_000
EVERY_GROUP = "*"

#: Verbs that change nothing: all that a read-only session signs.
READING = frozenset(
    {
        "manager.status",
        "release.compare",
        "release.list",
        "release.show",
        "group.list",
        "group.show",
        "group.drift",
        "device.list",
        "device.show",
        "device.upgrades",
        "device.downgrades",
        "rollout.plan",
        "rollout.answers",
        "rollout.list",
        "rollout.show",
        "rollout.history",
        "rollout.report",
        "audit.list",
        "audit.show",
    }
)


@dataclass(frozen=True, slots=True)
class Message:
    """A message that was watched for. `topic` is parsed; the payload is nobody's word until verified."""

    topic: Topic
    payload: bytes
    retained: bool


class Session:
    """A connection to one fleet as one operator; use it in a `with`. Safe to use from several threads.

    Raises FleetfootError: `key_unsafe`, `key_unreadable`, trust errors for the root; on entry
    `broker_unreachable`, `not_allowed` (by the broker). `connect_timeout` in seconds. `read_only`: nothing
    is signed that could change anything. `patient`: a broker that is not there is waited for.
    """

    def __init__(
        self,
        profile: Profile,
        *,
        connect_timeout: float = 10.0,
        resend_after: float = RESEND_AFTER,
        read_only: bool = False,
        patient: bool = False,
    ) -> None:
        self.profile = profile
        self.root = roots.load_valid(profile.root)
        #: Messages on the replies topic that no director signed for this fleet and operator.
        self.ignored = 0
        #: Watched messages that were dropped because nobody looked at them in time.
        self.dropped = 0
        self._secret = keyfiles.load_signing(profile.key).secret
        self._connect_timeout = connect_timeout
        self._resend_after = resend_after
        self._read_only = read_only
        self._patient = patient
        self._lock = threading.Lock()
        self._pending: dict[str, queue.SimpleQueue[Reply | None]] = {}
        self._given_up = False
        self._watched: queue.Queue[Message] = queue.Queue(_BACKLOG)
        self._link = Link(profile, self._receive)

    def __enter__(self) -> Self:
        if self._patient:
            self._link.begin([self.topic(Kind.REPLIES)])
            return self
        self._link.open(self._connect_timeout)
        try:
            self._link.subscribe([self.topic(Kind.REPLIES)], self._connect_timeout)
        except BaseException:
            self._link.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._link.close()

    def topic(self, kind: Kind, **ids: str) -> str:
        """The topic of `kind` under the profile's root; requests and replies are the operator's own."""
        if kind in (Kind.REQUESTS, Kind.REPLIES):
            ids.setdefault("operator", self.profile.operator)
        return topics.build(kind, root=self.profile.topic_root, **ids)

    def request(
        self,
        verb: str,
        group: str = EVERY_GROUP,
        arguments: Mapping[str, Any] | None = None,
        *,
        revision: int | None = None,
        timeout: float = 15.0,
    ) -> dict[str, Any]:
        """Ask the manager for `verb` and return the result of its reply.

        `group` is what it is about, `*` where the arguments say so; `revision` is the state acted on;
        `timeout` in seconds. Sent again once after some silence: the manager does a request once.
        FleetfootError with the manager's own code, message and remedy where it refuses; `timeout`;
        `broker_unreachable` if the connection was lost and did not come back; `read_only`.
        """
        if self._read_only and verb not in READING:
            raise FleetfootError(
                "read_only",
                f"this session is read-only and does not sign {verb}",
                remedy="leave, and start without --read-only",
            )
        left = deadline(timeout)
        identity = secrets.token_hex(12)
        envelope = self._signed(identity, verb, group, arguments or {}, revision, timeout)
        replies: queue.SimpleQueue[Reply | None] = queue.SimpleQueue()
        with self._lock:
            if self._given_up:
                raise _abandoned(verb)
            self._pending[identity] = replies
        try:
            for wait in (min(self._resend_after, timeout / 2), None):
                self._link.publish(self.topic(Kind.REQUESTS), envelope)
                remaining = left()
                try:
                    reply = replies.get(timeout=remaining if wait is None else wait)
                except queue.Empty:
                    continue
                if reply is None:
                    raise _abandoned(verb)
                return _result(reply)
        finally:
            with self._lock:
                del self._pending[identity]
        raise self._silence(verb, timeout)

    def give_up(self) -> None:
        """Let every `request` that waits, and all to come, end at once with `timeout`."""
        with self._lock:
            self._given_up = True
            for replies in self._pending.values():
                replies.put(None)

    def watch(self, *filters: str, timeout: float = 10.0) -> None:
        """Subscribe to topics or filters; what arrives comes from `next_message` and `messages`.

        `timeout`: seconds in which the broker must agree. FleetfootError `not_allowed`,
        `broker_unreachable`.
        """
        self._link.subscribe(list(filters), timeout)

    def next_message(self, timeout: float | None = None) -> Message | None:
        """The next watched message, or None after `timeout` seconds (None: wait as long as it takes)."""
        try:
            return self._watched.get(timeout=timeout)
        except queue.Empty:
            return None

    def messages(self, timeout: float | None = None) -> Iterator[Message]:
        """Watched messages as they arrive, until `timeout` seconds from now have passed (None: for ever)."""
        left = deadline(timeout)
        while (message := self.next_message(left())) is not None:
            yield message

    def _signed(
        self,
        identity: str,
        verb: str,
        group: str,
        arguments: Mapping[str, Any],
        revision: int | None,
        timeout: float,
    ) -> bytes:
        now = time.time()
        try:
            request = Request(
                fleet=self.root.fleet,
                operator=self.profile.operator,
                id=identity,
                group=group,
                verb=verb,
                arguments=dict(arguments),
                revision=revision,
                issued=times.to_text(now),
                expires=times.to_text(now + min(_MAX_LIFE, max(_LIFE, timeout + 10))),
            )
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise FleetfootError("request_invalid", f"{where}: {first['msg']}") from None
        return dsse.encode(dsse.sign(PayloadType.REQUEST, request.payload(), self._secret))

    def _receive(self, topic: str, payload: bytes, retained: bool) -> None:
        """On paho's thread: sort what arrives; nothing that arrives may raise."""
        parsed = topics.parse(topic, root=self.profile.topic_root)
        if parsed is None:
            return
        if parsed.kind is Kind.REPLIES:
            self._receive_reply(payload)
            return
        try:
            self._watched.put_nowait(Message(parsed, payload, retained))
        except queue.Full:
            self.dropped += 1

    def _receive_reply(self, payload: bytes) -> None:
        try:
            reply = trust.verify_reply(payload, self.root)
        except FleetfootError as error:
            log.debug("ignored on the replies topic: %s", error)
            self.ignored += 1
            return
        if reply.operator != self.profile.operator:
            self.ignored += 1
            return
        with self._lock:
            waiting = self._pending.get(reply.id)
        # Nobody waits for the second answer to a request sent twice, nor for another session's.
        if waiting is not None:
            waiting.put(reply)

    def _silence(self, verb: str, timeout: float) -> FleetfootError:
        if not self._link.connected:
            return FleetfootError(
                "broker_unreachable", f"the connection to the broker was lost while waiting for {verb}"
            )
        message = f"no reply of the manager to {verb} within {timeout:g} s"
        if self.ignored:
            message += f"; ignored {self.ignored} that the director of root {self.root.version} did not sign"
        return FleetfootError("timeout", message)


def _abandoned(verb: str) -> FleetfootError:
    return FleetfootError("timeout", f"nobody waits any more for the reply to {verb}")


def _result(reply: Reply) -> dict[str, Any]:
    if reply.ok:
        return reply.result
    raise FleetfootError(
        reply.code or "refused",
        reply.message or "the manager refused the request",
        remedy=reply.remedy,
    )
