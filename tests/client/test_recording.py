"""Recording what a broker says, and reading it back."""

import io
import json
from pathlib import Path

import pytest
from tests.client.rig import HandManager, Run

from fleetfoot_client import recording
from fleetfoot_client.profiles import Profile
from fleetfoot_client.recording import Heard, Recorder
from fleetfoot_protocol import topics
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.topics import Kind


def test_what_a_broker_says_is_recorded_without_requests_and_replies(
    run: Run, profile: Profile, manager: HandManager, tmp_path: Path
) -> None:
    online = topics.build(Kind.PRESENCE, group="ovens", device="oven-1")
    manager.publish(online, b"online", retain=True)
    manager.publish(topics.build(Kind.REPLIES, operator="alice"), b"secret", retain=True)
    path = tmp_path / "said.jsonl"
    done = run("record", path, "--for", "1s", "--json")
    assert done.code == 0, done.err
    with recording.opened(path) as file:
        head = recording.read_head(file)
        heard = list(recording.messages(file))
    assert head.root.fleet == "kitchens"
    assert (online, b"online", True) in [(one.topic, one.payload, one.retained) for one in heard]
    assert not any(one.payload == b"secret" for one in heard)
    assert json.loads(done.out)["messages"] == len(heard)
    assert json.loads(run("replay", path, "--json").out)["messages"] == len(heard)
    again = run("record", path)
    assert "exists_already" in again.err


def test_a_recording_comes_back_byte_for_byte_and_in_its_time(profile: Profile) -> None:
    file = io.StringIO()
    recorder = Recorder(file, profile.root.read_bytes(), "ff")
    said = [("ff/v1/manager/presence", bytes(range(256)), True), ("anything", b"", False)]
    for one in said:
        recorder.put(*one)
    file.seek(0)
    recording.read_head(file)
    heard = list(recording.messages(file))
    assert [(one.topic, one.payload, one.retained) for one in heard] == said
    got: list[tuple[str, bytes, bool]] = []
    waited: list[float] = []
    late = [Heard(60.0, "a", b"1", False), Heard(90.0, "a", b"2", False)]
    recording.play(iter(late), lambda *m: got.append(m), speed=10, wait=waited.append)
    assert [payload for _, payload, _ in got] == [b"1", b"2"]
    assert 5 < waited[0] <= 6
    assert 8 < waited[1] <= 9


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]\n",
        "{}\n",
        '{"fleetfoot": "recording", "version": 2}\n',
        '{"fleetfoot": "recording", "version": 1, "root": "!", "topic_root": "ff"}\n',
    ],
)
def test_what_is_no_recording_is_refused(text: str) -> None:
    with pytest.raises(FleetfootError):
        recording.read_head(io.StringIO(text))


def test_a_recording_whose_end_is_cut_is_shown_as_far_as_it_is_whole() -> None:
    line = '{"t": 1, "topic": "a", "payload": "YQ=="}'
    for cut in range(len(line)):
        assert len(list(recording.messages(io.StringIO(f"{line}\n{line[:cut]}")))) == 1
    assert len(list(recording.messages(io.StringIO(f"{line}\n{line}")))) == 2


BROKEN = ["x", "7", "{}", '{"t": 1, "topic": "a", "payload": "?"}', "[" * 9999]
NEVER = [f'{{"t": {t}, "topic": "a", "payload": ""}}' for t in ("NaN", "1e400", "1e18", "-1")]


@pytest.mark.parametrize("line", BROKEN + NEVER)
def test_a_broken_line_is_named(line: str) -> None:
    with pytest.raises(FleetfootError, match="line 2"):
        list(recording.messages(io.StringIO(line + "\n")))
