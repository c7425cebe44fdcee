"""Every code, wherever a person meets it, comes with its cause and its remedy."""

from pathlib import Path

import pytest
from docs.generate_troubleshooting import BY_HAND, troubleshooting_page
from tests.agent.stock import Stock
from tests.agent.workerrig import Rig, make_rig

from fleetfoot_agent.worker import inspection
from fleetfoot_client.commands.device import _one
from fleetfoot_client.rows import DeviceRow
from fleetfoot_protocol.codes import TABLE, Code
from fleetfoot_protocol.events import Event, cloud_event
from fleetfoot_protocol.reports import Answer, Problem, Status
from fleetfoot_protocol.states import Verdict

AT = "2026-01-31T12:00:00Z"


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Rig:
    rig = make_rig(tmp_path_factory.mktemp("device"), Stock(tmp_path_factory.mktemp("house")))
    rig.install_first(rig.stock["1.0.0"])
    return rig


@pytest.fixture(scope="module")
def status(rig: Rig) -> Status:
    """The status that the device has written, before a test writes another in its place."""
    return rig.status()


@pytest.mark.parametrize("code", Code)
def test_the_device_itself_says_code_cause_and_remedy(
    rig: Rig, status: Status, code: Code, capsys: pytest.CaptureFixture[str]
) -> None:
    answered = Answer(
        epoch=1, sequence=5, scope="group", verdict=Verdict.REJECTED, code=code, reason="the reason here"
    )
    problem = Problem(code=code, message="the cause here", at=AT)
    changed = status.components["kiosk"].model_copy(update={"answered": answered, "last_error": problem})
    said = status.model_copy(update={"components": {"kiosk": changed}, "alarms": (str(code),)})
    (rig.config.spool / "out" / "status.json").write_bytes(said.payload())
    capsys.readouterr()
    assert inspection.status(rig.config, False) == 0
    text = capsys.readouterr().out
    for label in ("last error", "because", "alarm"):
        assert f"{label}: {code}" in text
    assert text.count(f"{TABLE[code].meaning}; {TABLE[code].remedy}") == 3
    assert "the cause here" in text
    assert "the reason here" in text


@pytest.mark.parametrize("code", Code)
@pytest.mark.parametrize("data", [{}, {"message": "the cause here"}, {"reason": "the cause here"}])
def test_an_event_says_code_cause_and_remedy(code: Code, data: dict[str, str]) -> None:
    event = cloud_event(Event.ALARM, source="/x", event_id="1", time=AT, data=data, code=code)
    assert event["errorcode"] == event["data"]["error_code"] == code
    assert event["data"]["remedy"] == TABLE[code].remedy
    cause = event["data"].get("message") or event["data"].get("reason")
    assert cause == (TABLE[code].meaning if not data else "the cause here")


@pytest.mark.parametrize("code", Code)
def test_the_manager_s_view_of_a_device_says_code_cause_and_remedy(code: Code) -> None:
    row = DeviceRow.model_validate(
        {
            "id": "dev-001",
            "group": "g",
            "alarms": (str(code),),
            "components": {"kiosk": {"version": "1.0.0", "code": str(code), "reason": "the reason here"}},
            "last_error": {"code": str(code), "message": "the cause here", "at": AT},
        }
    )
    text = " ".join(_one(row).split())
    for words in (str(code), TABLE[code].meaning, TABLE[code].remedy, "the cause here", "the reason here"):
        assert " ".join(words.split()) in text
    assert text.count(" ".join(TABLE[code].remedy.split())) >= 3


def test_the_page_for_trouble_has_every_code_and_every_row_by_hand() -> None:
    page = troubleshooting_page()
    for code, known in TABLE.items():
        assert f"| `{code}` | {known.meaning} | {known.remedy} |" in page
    seen = {row[0] for row in BY_HAND}
    assert len(seen) == len(BY_HAND)
    assert all(row[0] in page for row in BY_HAND)
    assert Path(__file__).parents[2].joinpath("docs", "troubleshooting.md").read_text("utf-8") == page
