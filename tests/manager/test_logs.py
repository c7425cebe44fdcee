"""The log: one line for each thing, with the ids of what it is about, for people and for programs."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from tests.manager.enginerig import Rig
from tests.manager.realm import Device, Realm

from fleetfoot_manager import logs


def record(message: str, *words: object) -> logging.LogRecord:
    return logging.LogRecord("fleetfoot_manager.x", logging.WARNING, "x.py", 1, message, words, None)


def as_json(message: str, *words: object) -> dict[str, Any]:
    line = logs.JsonLine().format(record(message, *words))
    assert "\n" not in line
    found: dict[str, Any] = json.loads(line)
    return found


def test_names_and_values_of_a_message_are_members() -> None:
    found = as_json("refused device=%s rollout=r-1 code=upgrade_expired: it is over", "oven-7")
    assert found["message"] == "refused device=oven-7 rollout=r-1 code=upgrade_expired: it is over"
    ids = ("level", "logger", "device", "rollout", "code")
    assert [found[name] for name in ids] == [
        "WARNING",
        "fleetfoot_manager.x",
        "oven-7",
        "r-1",
        "upgrade_expired",
    ]


@pytest.mark.parametrize("form", logs.FORMATS)
def test_words_from_the_network_make_no_line_of_their_own(form: str) -> None:
    line = logs.FORMATS[form]().format(record("refused %s", 'a\nlevel=INFO\x1b[2J","level":"x'))
    assert "\n" not in line
    assert "\x1b" not in line
    if form == "json":
        assert json.loads(line)["level"] == "WARNING"


def test_what_is_logged_about_a_request_carries_its_id() -> None:
    with logs.about("0a1b"):
        assert as_json("desired group=hall request=forged")["request"] == "0a1b"
        assert logs.OneLine().format(record("desired group=hall")).endswith("group=hall request=0a1b")
    assert "request" not in as_json("desired group=hall")


def test_a_traceback_stays_on_the_line() -> None:
    try:
        raise ValueError("on purpose")
    except ValueError as error:
        failed = logging.LogRecord("x", logging.ERROR, "x.py", 1, "failed", (), (ValueError, error, None))
    assert "on purpose" in json.loads(logs.JsonLine().format(failed))["traceback"]


def test_the_engine_logs_under_the_id_of_the_request_that_it_decides(tmp_path: Path) -> None:
    lines: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    handler, logger = Kept(), logging.getLogger("fleetfoot_manager.requests.desk")
    handler.setFormatter(logs.JsonLine())
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    rig = Rig(Realm(tmp_path))
    try:
        rig.connect()
        rig.enroll(Device("dev-1", "hall"))
        reply = rig.ask("release.archive", {"component": "kiosk", "version": "1.0.0"})
    finally:
        rig.close()
        logger.removeHandler(handler)
        logger.setLevel(before)
    found = [json.loads(line) for line in lines]
    refused = next(line for line in found if line.get("verb") == "release.archive")
    assert (refused["request"], refused["code"]) == (reply.id, "not_found")
    assert next(line for line in found if line.get("verb") == "device.enroll")["request"] != reply.id
