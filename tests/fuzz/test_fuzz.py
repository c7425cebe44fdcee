"""What arrives is mutated by machine: twenty thousand cases here, a million in `make fuzz`."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from tests.attack.rows import row
from tests.fuzz import target
from tests.fuzz.__main__ import SEEDS
from tests.protocol import samples

from fleetfoot_protocol import documents, dsse
from fleetfoot_protocol.documents import Desired

CASES = 20_000
ROOM = Path(__file__).parents[2]


@row(
    30,
    "mutations of the bytes and the structure of every kind of document, from outside and signed again",
    "none accepted that is not a valid document to the last field; nothing escapes; time and memory bounded",
)
def test_row_30_no_mutation_is_accepted_or_escapes() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", str(CASES)],
        cwd=ROOM,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout)
    assert (told["cases"], told["violations"]) == (CASES, 0)
    # The cases reach behind the signature, and some mutations leave a valid document.
    assert told["valid_accepted"] > CASES // 100
    assert told["unchanged_accepted"] > 0


@pytest.mark.parametrize("path", sorted(SEEDS.glob("*.bin")), ids=lambda path: path.stem)
def test_an_input_that_was_once_of_interest_is_still_handled(path: Path) -> None:
    side, name, _ = path.stem.split("-", 2)
    target.check(f"{side}:{name}", path.read_bytes())


def test_every_original_is_accepted() -> None:
    for name, data in target.ORIGINALS.items():
        assert target.judge(name, data, inside=True), name


def test_every_target_is_drawn() -> None:
    drawn = {target.one(number)[0] for number in range(len(target.TARGETS))}
    assert drawn == set(target.TARGETS)


def _reader_of(name: str, monkeypatch: pytest.MonkeyPatch, read: object) -> None:
    kind = target.KINDS[name]
    lax = target.Kind(kind.payload_type, kind.document, kind.signers, read)  # type: ignore[arg-type]
    monkeypatch.setitem(target.KINDS, name, lax)


def _judge_many(name: str, make: Callable[[Random, str], bytes], *, inside: bool) -> None:
    for number in range(200):
        rng = Random(number)  # noqa: S311 # reproducible, not secret
        target.judge(name, make(rng, name), inside=inside)


def test_a_reader_that_looks_at_no_signature_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    _reader_of("desired_group", monkeypatch, lambda data: documents.read(Desired, dsse.decode(data).payload))
    with pytest.raises(target.Violation, match="without the right signatures"):
        _judge_many("desired_group", target.outsider, inside=False)


def test_a_reader_that_drops_what_it_does_not_know_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    _reader_of("desired_group", monkeypatch, lambda data: samples.GROUP)
    with pytest.raises(target.Violation, match="not what was written"):
        _judge_many("desired_group", target.insider, inside=True)


def test_an_exception_of_another_kind_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(data: bytes) -> object:
        return json.loads(data)["nothing"]

    _reader_of("probe", monkeypatch, read)
    with pytest.raises(target.Violation, match="KeyError escaped"):
        target.judge("probe", target.ORIGINALS["probe"], inside=True)
