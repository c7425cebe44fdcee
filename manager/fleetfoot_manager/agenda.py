"""What the manager does because time has passed, apart from rollouts: renewing, and tidying up.

Looked at every half minute: nothing here is in a hurry. At start, everything is made anew that no longer
says what is the case: another root, another mirror.
"""

import logging
from collections.abc import Iterator

import sqlalchemy as sa

from fleetfoot_manager import acts, audit, documents, inventory, publisher, reassert, schema
from fleetfoot_manager.house import House
from fleetfoot_manager.rollout_devices import RESTS, STAGING_WAVE
from fleetfoot_manager.store import REQUESTS_SINCE, get_meta, set_meta
from fleetfoot_manager.work import Work
from fleetfoot_protocol.states import Terminal
from fleetfoot_protocol.topics import Kind

log = logging.getLogger(__name__)

EVERY_SECONDS = 30.0
#: How long a decided request is remembered. It could not be decided anew: requests live five minutes.
REQUEST_SECONDS = 30 * 24 * 3600.0
#: A device that a rollout awaits, online and unheard for so long, may have spoken in vain: a broker may lose
#: what it has acknowledged. What it left retained is asked for, of so many at a look.
UNHEARD_SECONDS = 30.0
_UNHEARD_AT_ONCE = 200

#: Up to which restoration documents were signed anew.
_TOLD_SINCE = "told_since"


class Agenda:
    """Renewals by the clock."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._next = 0.0
        self._asked_up_to = ""

    def next_deadline(self) -> float:
        """When to look again, unix seconds."""
        return self._next

    def at_start(self, work: Work) -> None:
        """Bring the store's documents up to what this process runs with.

        Those of a store that was restored are older than what devices may have heard, also where no broker
        retains that any more: signed anew they are the newest again, and not refused as replayed.
        """
        self._put_roots(work)
        since = get_meta(work.tx, REQUESTS_SINCE) or ""
        restored = since != (get_meta(work.tx, _TOLD_SINCE) or "")
        set_meta(work.tx, _TOLD_SINCE, since)
        mirror = get_meta(work.tx, "mirror")
        root = get_meta(work.tx, "root")
        another_root = root != str(self._house.root.version)
        if another_root or restored or mirror != self._house.mirror:
            work.renew_every_order(released=True)
        set_meta(work.tx, "mirror", self._house.mirror)
        set_meta(work.tx, "root", str(self._house.root.version))
        for name in work.rollouts if another_root else ():
            work.renew_progress(name)
        table = schema.documents.c
        told = work.tx.scalars(sa.select(table.group).where(table.kind == str(Kind.GROUP_DESIRED)))
        for group in {*inventory.known_groups(work.tx), *told}:
            known = documents.get(work.tx, documents.place(Kind.HEARTBEAT, group=group))
            if known is None or another_root or restored:
                work.renew_heartbeat(group)
        known_head = documents.get(work.tx, documents.place(Kind.AUDIT_HEAD))
        end = audit.last(work.tx)
        if another_root or (end is not None and (known_head is None or known_head.sequence != end.n)):
            work.renew_audit_head()
        self.act(work)

    def _put_roots(self, work: Work) -> None:
        for version, envelope in work.tx.execute(sa.select(schema.roots)).all():
            if documents.get(work.tx, documents.place(Kind.TRUST_ROOT, step=str(version))) is None:
                documents.put(work.tx, Kind.TRUST_ROOT, {"step": str(version)}, envelope, work.now)

    def act(self, work: Work) -> None:
        """Whatever is due by now."""
        if work.now < self._next:
            return
        self._next = work.now + EVERY_SECONDS
        for group, component in documents.due(work.tx, Kind.GROUP_DESIRED, work.now):
            work.renew_desired(group, component)
        for group, _ in documents.due(work.tx, Kind.HEARTBEAT, work.now):
            work.renew_heartbeat(group)
        self._act_on_devices(work)
        self._listen_again(work)
        reassert.drop_unused(work.tx)
        publisher.drop_probes(work.tx, self._house, work.now)
        requests = schema.requests
        work.tx.execute(sa.delete(requests).where(requests.c.at < work.now - REQUEST_SECONDS))
        tokens = schema.upload_tokens
        work.tx.execute(sa.delete(tokens).where(tokens.c.expires <= work.now))

    def _listen_again(self, work: Work) -> None:
        """Ask for what awaited devices have said last, some at each look, one after the other."""
        if not work.rollouts:
            return
        work.devices.flush(work.tx)
        awaited, known = schema.rollout_devices.c, schema.devices.c
        before = work.now - UNHEARD_SECONDS
        open_ends = [str(one) for one in Terminal if not one.ended]
        rows = work.tx.execute(
            sa.select(known.group, known.id)
            .join(schema.rollout_devices, awaited.device == known.id)
            .where(awaited.rollout.in_(list(work.rollouts)))
            .where(
                sa.or_(
                    sa.and_(awaited.terminal.in_(open_ends), awaited.since <= before),
                    *_opened(work, before, open_ends),
                )
            )
            .where(known.online, known.last_seen <= work.now - UNHEARD_SECONDS)
            .where(known.id > self._asked_up_to)
            .order_by(known.id)
            .limit(_UNHEARD_AT_ONCE)
        ).all()
        self._asked_up_to = rows[-1][1] if len(rows) == _UNHEARD_AT_ONCE else ""
        work.unheard += [(group, device) for group, device in rows]

    def _act_on_devices(self, work: Work) -> None:
        """Renew the documents of pins, and clear those of acts whose time is over."""
        for device, component in documents.own_due(work.tx, work.now):
            work.renew_own(device, component)
        for act in acts.run_out(work.tx, work.now):
            entry = work.devices.find(work.tx, act.device)
            if act.state == acts.OPEN:
                group = {} if entry is None else {"group": entry.group}
                data = {"device": act.device, **group, "component": act.component, **act.row()}
                work.audit(audit.MANAGER, "node.upgrade.end", data | {"outcome": "expired"})
            if entry is not None:
                work.drop_own(entry.group, act)


def _opened(work: Work, before: float, open_ends: list[str]) -> Iterator[sa.ColumnElement[bool]]:
    """Who is asked with a wave that opened before then: rows say so only once they are written again."""
    row = schema.rollout_devices.c
    for of in work.rollouts.values():
        waves = {wave: at for wave, at in of.devices.opened.items() if at <= before}
        mine = sa.and_(row.rollout == of.id, row.gone.is_(False), row.wave > 0)
        if waves:
            there = sa.true() if STAGING_WAVE in waves else row.wave.in_(list(waves))
            yield sa.and_(mine, row.since.is_(None), row.terminal.in_(open_ends), there)
        for wave, at in waves.items() if of.stage else ():
            rests = row.terminal.in_([str(terminal) for terminal in RESTS])
            yield sa.and_(mine, row.wave == wave, rests, row.since <= at)
