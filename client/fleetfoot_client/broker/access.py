"""Checks of who may do what: TLS, who comes without a name, what a role is denied.

The denials are tried on the fleet's own root, for ids that nobody has (`ffcheck-<random>`), not retained
and empty: whoever should get such a message knows by the contract that it says nothing.
"""

import re

from fleetfoot_client.broker.delivery import Found
from fleetfoot_client.broker.rights import RIGHTS, Role
from fleetfoot_client.broker.target import FAILURES, Target, UnseenError
from fleetfoot_client.broker.wire import REFUSED, V5, V311, ClosedError, Peer, Will
from fleetfoot_protocol import topics
from fleetfoot_protocol.topics import Kind

_LOOK_SECONDS = 1.0


def tls(target: Target) -> Found:
    """The connection is encrypted; that the broker's certificate is right, connecting has shown."""
    if target.tls is None:
        return False, "a plain connection"
    with target.peer() as peer:
        return True, f"{peer.tls_version}, the broker's certificate is valid"


def anonymous_refused(target: Target) -> Found:
    """Who shows neither certificate nor password is not let in."""
    try:
        peer = target.nobody()
    except ClosedError:
        return True, "who shows nothing is not let in"
    except OSError:
        return True, "who shows nothing does not get through TLS"
    try:
        return peer.refusal != 0, "refused" if peer.refusal else "who shows nothing is let in"
    finally:
        peer.vanish()


class Denials:
    """What must be denied to `role` under a fleet's topic root; all ids are strangers'."""

    def __init__(self, target: Target, role: Role, root: str) -> None:
        self._target = target
        self._role = role
        self._root = root
        self._stranger = f"ffcheck-{target.run}"

    def write(self) -> Found:
        """Publishing what others have to say."""
        wanted = self._denied(write=True)
        if not wanted:
            raise UnseenError(f"a {self._role} may write everything")
        unseen = 0
        for topic in wanted:
            refused = self._refuses(topic)
            if refused is False:
                return False, f"may write {topic}"
            unseen += refused is None
        if unseen:
            raise UnseenError(
                f"acknowledged, and whether passed on cannot be seen: {unseen} of {len(wanted)}"
            )
        return True, f"{len(wanted)} kinds of topics refused"

    def will(self) -> Found:
        """A Will on somebody else's presence."""
        if not (wanted := [t for t in self._denied(write=True) if t.endswith("/presence")]):
            raise UnseenError(f"a {self._role} may write every presence")
        try:
            watcher = self._target.peer()
            watcher.subscribe(wanted[0])
            other = self._target.attempt(will=Will(wanted[0], b""))
        except ClosedError:
            return True, "the connection is ended"
        if other.refusal:
            watcher.vanish()
            other.vanish()
            return True, "the connection is refused"
        other.vanish()
        try:
            came = watcher.receive(_LOOK_SECONDS)
        except ClosedError:
            came = None  # one connection for each identity: ours has taken over our own
        finally:
            watcher.vanish()
        if came is not None:
            return False, f"a Will to {wanted[0]} is published"
        raise UnseenError("the connection is accepted; whether the Will is published cannot be seen")

    def read(self) -> Found:
        """Hearing what is said to others."""
        wanted = self._denied(write=False)
        if not wanted:
            raise UnseenError(f"a {self._role} may read everything")
        granted = []
        for name in wanted:
            try:
                with self._target.peer() as peer:
                    if peer.subscribe(name)[0] >= REFUSED:
                        continue
                    granted.append(name)
                    if self._hears_itself(peer, name):
                        return False, f"may read {name}"
            except FAILURES:
                continue
        if granted:
            raise UnseenError(
                f"{len(granted)} of {len(wanted)} subscriptions are granted; whether anything is passed on"
                " cannot be seen"
            )
        return True, f"{len(wanted)} kinds of topics refused"

    def _hears_itself(self, peer: Peer, topic: str) -> bool:
        peer.publish(topic, b"")
        return peer.receive(0.2) is not None

    def _denied(self, *, write: bool) -> list[str]:
        rights = RIGHTS[self._role]
        allowed = rights.writes if write else rights.reads
        found = []
        for kind, shape, _, _ in topics.rows():
            fields = re.findall(r"\{(\w+)\}", shape)
            # A stranger's topic is denied even where the own one is not.
            if kind not in allowed or (rights.own and rights.own in fields):
                found.append(self._name(kind, fields))
        return found

    def _name(self, kind: Kind, fields: list[str]) -> str:
        special = {"digest": "0" * 64, "step": "999999999"}
        return topics.build(kind, root=self._root, **{f: special.get(f, self._stranger) for f in fields})

    def _refuses(self, topic: str) -> bool | None:
        """Whether publishing is refused: MQTT 5 says so. None if nobody says anything."""
        try:
            with self._target.peer(version=V5) as peer:
                return peer.publish(topic, b"") >= REFUSED
        except FAILURES:
            pass
        # Either it knows no MQTT 5 or it hangs up: with 3.1.1 we see which.
        with self._target.peer(version=V311) as peer:
            try:
                peer.subscribe(topic)
                peer.publish(topic, b"")
                return False if peer.receive(_LOOK_SECONDS) is not None else None
            except ClosedError:
                return True
