"""The desk: receives signed requests, decides who may, lets the verb act, and answers with a signed reply.

1. What is not signed by the operator whose topic it came on gets no answer at all.
2. (operator, id) is stored with its effect in one transaction: a repetition gets the very same reply, and
   has no effect. Replies of verbs that change nothing are kept in memory only.
3. A request lives at most five minutes; a minute is forgiven between clocks.
4. Every refusal is a signed reply with code, message and remedy, and a row in the audit log.
5. What takes long (reading whole artifacts) is examined on another thread; the answer comes when it is done.
"""

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from fleetfoot_manager import documents, logs, rights, schema, standstill
from fleetfoot_manager.catalogue import Candidate
from fleetfoot_manager.database import FATAL
from fleetfoot_manager.requests import (
    approvals,
    audits,
    device_acts,
    device_admin,
    devices,
    engine_acts,
    groups,
    history,
    identities,
    overview,
    preflight,
    releases,
    rollouts,
    starting,
)
from fleetfoot_manager.work import Work
from fleetfoot_protocol import times, trust
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.dsse import PayloadType
from fleetfoot_protocol.errors import FleetfootError, UpgradeError
from fleetfoot_protocol.reports import Reply, Request
from fleetfoot_protocol.states import Right
from fleetfoot_protocol.topics import Kind

log = logging.getLogger(__name__)

LIFE_SECONDS = 300
TOLERANCE_SECONDS = 60
_KEPT_IN_MEMORY = 256
_MAX_TEXT = 2000

Handler = Callable[[Work, Request], dict[str, Any]]

#: Verbs that are answered at once. `release.publish` is not among them: it is examined first.
HANDLERS: dict[str, Handler] = {
    "manager.status": overview.status,
    "engine.pause": engine_acts.pause,
    "engine.resume": engine_acts.resume,
    "release.upload": releases.upload,
    "release.list": releases.listing,
    "release.show": releases.show,
    "release.compare": releases.compare,
    "release.promote": releases.promote,
    "release.archive": releases.archive,
    "release.recall": releases.recall,
    "release.lift": releases.lift,
    "group.list": groups.listing,
    "group.show": groups.show,
    "group.drift": groups.drift,
    "group.create": groups.create,
    "group.forget": groups.forget,
    "group.policy": groups.policy,
    "device.enroll": devices.enroll,
    "device.list": devices.listing,
    "device.show": devices.show,
    "device.move": device_admin.move,
    "device.relabel": device_admin.relabel,
    "device.replace": device_admin.replace,
    "device.forget": device_admin.forget,
    "device.token": identities.token,
    "device.revoke": identities.revoke,
    "device.upgrade": device_acts.upgrade,
    "device.downgrade": device_acts.downgrade,
    "device.pin": device_acts.pin,
    "device.unpin": device_acts.unpin,
    "device.release": device_acts.release,
    "device.upgrades": device_acts.upgrades,
    "device.downgrades": device_acts.downgrades,
    "rollout.plan": starting.plan,
    "rollout.probe": preflight.probe,
    "rollout.answers": preflight.answers,
    "rollout.start": starting.start,
    "audit.list": audits.listing,
    "audit.show": audits.show,
    "audit.prune": audits.prune,
    "rollout.history": history.history,
    "rollout.note": history.note,
    "rollout.report": history.report,
    "rollout.approve": approvals.approve,
    "rollout.reject": approvals.reject,
    "rollout.list": rollouts.listing,
    "rollout.show": rollouts.show,
    "rollout.pause": rollouts.pause,
    "rollout.resume": rollouts.resume,
    "rollout.decide": rollouts.decide,
    "rollout.activate": rollouts.activate,
    "rollout.cancel": rollouts.cancel,
    "rollout.retry": rollouts.retry,
}
_EXAMINED = "release.publish"
_CHANGES_NOTHING = frozenset(
    {verb for verb, right in rights.VERBS.items() if right is Right.READ} | {"rollout.plan"}
)


@dataclass(frozen=True, slots=True)
class Examined:
    """A release has been examined for a request: the candidate, or why there is none."""

    request: Request
    digest: str
    candidate: Candidate | None
    error: Exception | None


class Desk:
    """`on_examined` hands an `Examined` to the engine's queue, from another thread."""

    def __init__(self, on_examined: Callable[[Examined], None]) -> None:
        self.ignored: Counter[str] = Counter()
        #: Unix seconds: what was signed before may have been decided by a store that was lost.
        self.since = 0.0
        self._on_examined = on_examined
        self._examiner = ThreadPoolExecutor(1, "examiner")
        self._in_examination: set[tuple[str, str]] = set()
        self._recent: OrderedDict[tuple[str, str], tuple[str, bytes]] = OrderedDict()

    def close(self) -> None:
        """Examine nothing more."""
        self._examiner.shutdown(wait=False, cancel_futures=True)

    def request(self, work: Work, operator: str, payload: bytes) -> None:
        """One message on an operator's topic of requests."""
        work.devices.flush(work.tx)
        try:
            request, digest = trust.verify_request(payload, work.house.root)
        except UpgradeError as error:
            self.ignored[error.code] += 1
            log.warning("operator=%s request not answered code=%s: %s", operator, error.code, error.message)
            return
        if request.operator != operator:
            self.ignored["other operator's topic"] += 1
            log.warning("operator=%s request of %s on this topic not answered", operator, request.operator)
            return
        if not self._repeated(work, request, digest):
            self._decide(work, request, digest)

    def _repeated(self, work: Work, request: Request, digest: str) -> bool:
        key = (request.operator, request.id)
        known = self._recent.get(key)
        if known is None:
            table = schema.requests.c
            row = work.tx.execute(
                sa.select(table.digest, table.reply).where(table.operator == key[0], table.id == key[1])
            ).first()
            known = (row[0], row[1]) if row else None
        if known is None:
            return key in self._in_examination
        if known[0] == digest:
            self._send(work, request.operator, known[1])
        else:
            error = FleetfootError(
                "request_invalid", f"id {request.id} was used before", remedy="send it again under a new id"
            )
            self._send(work, request.operator, self._sign(work, request, _refusal(error)))
        return True

    def _decide(self, work: Work, request: Request, digest: str) -> None:
        def act() -> dict[str, Any]:
            _check_times(request, work.now, self.since)
            handler = HANDLERS.get(request.verb)
            if handler is None:
                raise FleetfootError("request_invalid", f"no verb {request.verb}")
            _demand_going(work, request)
            return handler(work, request)

        if request.verb == _EXAMINED:
            self._examine(work, request, digest)
        else:
            self._answer(work, request, digest, act)

    def _examine(self, work: Work, request: Request, digest: str) -> None:
        blobs, root = work.house.blobs, work.house.root
        try:
            _check_times(request, work.now, self.since)
            wanted = releases.wanted(work, request)
            _demand_going(work, request)
        except FleetfootError as error:
            self._answer(work, request, digest, _raiser(error))
            return

        def examine() -> None:
            candidate, failure = None, None
            try:
                candidate = releases.examine(blobs, wanted, root)
            except Exception as error:
                failure = error
            self._on_examined(Examined(request, digest, candidate, failure))

        self._in_examination.add((request.operator, request.id))
        self._examiner.submit(examine)

    def examined(self, work: Work, item: Examined) -> None:
        """What came out of an examination: decide, and answer."""

        def act() -> dict[str, Any]:
            if item.error is not None:
                raise item.error
            if item.candidate is None:
                raise AssertionError("examined without a result")
            return releases.publish(work, item.request, item.candidate)

        self._in_examination.discard((item.request.operator, item.request.id))
        self._answer(work, item.request, item.digest, act)

    def _answer(self, work: Work, request: Request, digest: str, act: Callable[[], dict[str, Any]]) -> None:
        with logs.about(request.id):
            self._answered(work, request, digest, act)

    def _answered(self, work: Work, request: Request, digest: str, act: Callable[[], dict[str, Any]]) -> None:
        work.request_digest = digest
        try:
            with work.step():
                reply = self._sign(work, request, {"ok": True, "result": act()})
            level = logging.DEBUG if request.verb in _CHANGES_NOTHING else logging.INFO
            log.log(level, "done operator=%s verb=%s", request.operator, request.verb)
        except OperationalError:
            raise
        except FleetfootError as error:
            if error.code in FATAL:
                raise
            reply = self._refuse(work, request, error)
        except Exception:
            log.exception("failed operator=%s verb=%s", request.operator, request.verb)
            reply = self._refuse(work, request, _unexpected())
        finally:
            work.request_digest = ""
        self._remember(work, request, digest, reply)
        self._send(work, request.operator, reply)

    def _refuse(self, work: Work, request: Request, error: FleetfootError) -> bytes:
        log.info(
            "refused operator=%s verb=%s code=%s: %s",
            request.operator,
            request.verb,
            error.code,
            error.message,
        )
        data = {"verb": request.verb, "group": request.group, "code": error.code, "message": error.message}
        work.audit(request.operator, "request.refused", data)
        return self._sign(work, request, _refusal(error))

    def _sign(self, work: Work, request: Request, content: dict[str, Any]) -> bytes:
        reply = Reply(
            fleet=request.fleet,
            operator=request.operator,
            id=request.id,
            issued=times.to_text(work.now),
            **content,
        )
        return work.house.director.envelope(PayloadType.REPLY, reply)

    def _remember(self, work: Work, request: Request, digest: str, reply: bytes) -> None:
        key = (request.operator, request.id)
        if request.verb in _CHANGES_NOTHING:
            self._recent[key] = (digest, reply)
            while len(self._recent) > _KEPT_IN_MEMORY:
                self._recent.popitem(last=False)
            return
        work.tx.execute(
            sa.insert(schema.requests).values(
                operator=key[0], id=key[1], digest=digest, reply=reply, at=work.now
            )
        )

    def _send(self, work: Work, operator: str, reply: bytes) -> None:
        work.send(documents.place(Kind.REPLIES, operator=operator), reply)


def _check_times(request: Request, now: float, since: float) -> None:
    issued, expires = times.from_text(request.issued), times.from_text(request.expires)
    if not 0 < expires - issued <= LIFE_SECONDS:
        raise FleetfootError("request_invalid", f"a request lives at most {LIFE_SECONDS} s")
    if issued < int(since):
        raise FleetfootError(
            "request_expired",
            "signed before the manager was restored",
            remedy="look at what is, and ask again",
        )
    if now > expires + TOLERANCE_SECONDS or now < issued - TOLERANCE_SECONDS:
        raise FleetfootError(
            "request_expired", f"issued {request.issued}, expires {request.expires}, now {times.to_text(now)}"
        )


def _demand_going(work: Work, request: Request) -> None:
    """Raise FleetfootError `state_refused` for what lets devices begin, while the engine is paused."""
    refusal = standstill.refusal(work.tx, request.verb, request.arguments)
    if refusal is not None:
        # Who may not do it anyhow is told that.
        rights.demand_anywhere(work.house.root, request)
        raise refusal


def _refusal(error: FleetfootError) -> dict[str, Any]:
    return {
        "ok": False,
        "code": error.code[:256],
        "message": error.message[:_MAX_TEXT],
        "remedy": error.remedy[:_MAX_TEXT],
    }


def _unexpected() -> FleetfootError:
    return FleetfootError(
        Code.UPGRADE_INTERNAL,
        "the manager met an error it did not expect; nothing was changed",
        remedy="keep the manager's log and report it as a defect",
    )


def _raiser(error: FleetfootError) -> Callable[[], dict[str, Any]]:
    def act() -> dict[str, Any]:
        raise error

    return act
