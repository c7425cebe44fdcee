"""What a flood on one topic may cost: what is stored is written and synced, so not everything is.

Of what comes on a topic within one span, the first different messages pass at once, and of the rest the
newest when the span is over. The spool would have thrown away what is left out, too: it keeps the first seven
unread and the newest (contract section 6, rule 4). Pure: it is told the time.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Span:
    """over: when it ends. held: the newest that did not pass."""

    over: float
    passed: set[bytes] = field(default_factory=set)
    held: bytes | None = None


class Floodgate:
    """span in seconds, burst: how many different messages of a topic pass at once in each."""

    def __init__(self, span: float, burst: int) -> None:
        self._span = span
        self._burst = burst
        self._spans: dict[str, _Span] = {}

    def passes(self, topic: str, payload: bytes, now: float) -> bool:
        """Whether a message is to be stored now. If not, it was stored in this span, or is held."""
        span = self._spans.get(topic)
        if span is None or now >= span.over:
            # What was held is older than this one.
            span = self._spans[topic] = _Span(now + self._span)
        digest = hashlib.sha256(payload).digest()
        if digest in span.passed:
            return False
        if len(span.passed) >= self._burst:
            span.held = payload
            return False
        span.passed.add(digest)
        return True

    def forget(self, topic: str) -> None:
        """A message that passed could not be stored: let it pass when it comes again."""
        self._spans.pop(topic, None)

    def over(self, now: float) -> Iterator[tuple[str, bytes]]:
        """What was held in spans that are over, as (topic, payload). They are forgotten by that."""
        for topic in [name for name, span in self._spans.items() if now >= span.over]:
            span = self._spans.pop(topic)
            if span.held is not None:
                yield topic, span.held

    @property
    def due_at(self) -> float:
        """When something that is held is due; infinity if nothing is."""
        held = (span.over for span in self._spans.values() if span.held is not None)
        return min(held, default=float("inf"))
