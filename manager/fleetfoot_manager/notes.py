"""What people want those after them to know about a rollout; shown in the next plan for its component."""

import json
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fleetfoot_manager import schema
from fleetfoot_protocol import times


class Note(NamedTuple):
    """A note. `at`: unix seconds."""

    rollout: str
    component: str
    author: str
    at: float
    title: str
    category: str
    tags: tuple[str, ...]
    text: str

    def row(self) -> dict[str, Any]:
        """As it is shown."""
        return {**self._asdict(), "at": times.to_text(self.at), "tags": list(self.tags)}


def add(tx: Connection, note: Note) -> None:
    """Keep a note."""
    tx.execute(sa.insert(schema.notes).values({**note._asdict(), "tags": json.dumps(note.tags)}))


def newest(tx: Connection, limit: int, *, component: str = "", rollout: str = "") -> list[Note]:
    """The newest notes about a component, or about a rollout."""
    table = schema.notes.c
    where = table.rollout == rollout if rollout else table.component == component
    rows = tx.execute(sa.select(schema.notes).where(where).order_by(table.id.desc()).limit(limit))
    return [
        Note(
            row.rollout, row.component, row.author, row.at, row.title, row.category,
            tuple(json.loads(row.tags)), row.text,
        )
        for row in rows
    ]  # fmt: skip
