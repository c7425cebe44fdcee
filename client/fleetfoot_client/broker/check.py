"""`fleetfoot broker check`: the checks in their order. Some seconds; every wait is bounded."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

from fleetfoot_client.broker import access, delivery, sessions
from fleetfoot_client.broker.delivery import Check, Found
from fleetfoot_client.broker.report import ROWS, Finding
from fleetfoot_client.broker.rights import Role
from fleetfoot_client.broker.sessions import Silence
from fleetfoot_client.broker.target import FAILURES, Target, UnseenError
from fleetfoot_client.broker.wire import ClosedError
from fleetfoot_protocol import topics
from fleetfoot_protocol.errors import FleetfootError

#: What is checked below the run's own root.
_BELOW: dict[str, Check] = {
    "retained_exact": delivery.retained_exact,
    "retained_wildcard": delivery.retained_wildcard,
    "retained_reconnect": delivery.retained_reconnect,
    "packet_size": delivery.packet_size,
    "acknowledged_kept": delivery.acknowledged_kept,
    "ordering": delivery.ordering,
    "duplicates": delivery.duplicates,
    "slow_consumer": delivery.slow_consumer,
    "will": sessions.will,
    "will_retained": sessions.will_retained,
    "takeover": sessions.takeover,
    "redelivery": sessions.redelivery,
}

_NOT_TAKEN = (
    "show by what it knows you: --cert-file and --cert-key-file for the role that this port is for,"
    " neither revoked nor expired (`fleetfoot pki list` tells), or --username"
)


def check(target: Target, role: Role | None = None, root: str = topics.DEFAULT_ROOT) -> Iterator[Finding]:
    """Findings as they are made, in the order of `ROWS`. Leaves nothing retained.

    role: also try what must be denied to it below `root`. FleetfootError `broker_unreachable` if the broker
    does not let us in.
    """
    try:
        target.peer().leave()
    except FAILURES as error:
        raise FleetfootError(
            "broker_unreachable",
            f"cannot reach the broker {target.address}: {error}",
            # With TLS 1.3 a certificate that is not taken ends the connection after the handshake.
            remedy=_NOT_TAKEN if target.tls is not None and isinstance(error, ClosedError) else None,
        ) from error
    with ExitStack() as stack:
        unseen = _unseen(target)
        silence = None if unseen else stack.enter_context(Silence(target))
        stack.callback(target.clear)
        for name, work in _BELOW.items():
            yield Finding(name, None, unseen) if unseen else _finding(name, partial(work, target))
        yield _finding("keepalive", silence.judge) if silence else Finding("keepalive", None, unseen)
        yield _finding("tls", partial(access.tls, target))
        yield _finding("anonymous_refused", partial(access.anonymous_refused, target))
        if role is not None:
            denials = access.Denials(target, role, root)
            yield _finding("denied_write", denials.write)
            yield _finding("denied_will", denials.will)
            yield _finding("denied_read", denials.read)


def _unseen(target: Target) -> str:
    """Why nothing below the run's root can be checked; empty if all can."""
    try:
        delivery.admitted(target)
    except UnseenError as error:
        return str(error)
    except FAILURES as error:
        return f"the broker denies this identity topics below ffcheck/: {error}"
    return ""


def _finding(name: str, work: Callable[[], Found]) -> Finding:
    assert name in ROWS  # noqa: S101 - a row without its consequence is a mistake of ours
    try:
        holds, detail = work()
    except UnseenError as error:
        return Finding(name, None, str(error))
    except FAILURES as error:
        return Finding(name, False, str(error) or type(error).__name__)
    return Finding(name, holds, detail)
