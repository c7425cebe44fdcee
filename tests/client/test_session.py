"""The session on a real broker: what is signed, what counts as a reply, what silence means."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.client.rig import BrokerAddress, HandManager, Refused, Run
from tests.support.waiting import until

from fleetfoot_client.exits import Exit
from fleetfoot_client.profiles import Profile
from fleetfoot_client.session import READING, Session
from fleetfoot_manager import rights
from fleetfoot_manager.broker import EmbeddedBroker
from fleetfoot_protocol import dsse, times, topics
from fleetfoot_protocol.dsse import PayloadType
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.reports import Request
from fleetfoot_protocol.states import Right
from fleetfoot_protocol.topics import Kind


def test_a_request_is_signed_for_the_fleet_and_short_lived(profile: Profile, manager: HandManager) -> None:
    manager.answers["device.list"] = lambda request: {"devices": [request.arguments]}
    with Session(profile) as session:
        result = session.request("device.list", "ovens", {"limit": 3}, revision=7)
    assert result == {"devices": [{"limit": 3}]}
    (heard,) = manager.heard  # verified on arrival with the root, by the rig
    assert (heard.fleet, heard.operator, heard.group, heard.revision) == ("kitchens", "alice", "ovens", 7)
    life = times.from_text(heard.expires) - times.from_text(heard.issued)
    assert 0 < life <= 300
    assert abs(times.from_text(heard.issued) - time.time()) < 60


def test_a_refusal_comes_with_the_managers_own_words(
    profile: Profile, manager: HandManager, run: Run
) -> None:
    def refuse(request: Request) -> dict[str, Any]:
        raise Refused("conflict", "rollout r-1 is live", "wait for it")

    manager.answers["rollout.list"] = refuse
    done = run("rollout", "list", "--json")
    assert done.code == Exit.FAILED
    assert done.json["error"] == {
        "code": "conflict", "message": "rollout r-1 is live", "remedy": "wait for it",
    }  # fmt: skip


def test_a_refusal_with_a_code_nobody_knows_is_no_traceback(
    profile: Profile, manager: HandManager, run: Run
) -> None:
    def refuse(request: Request) -> dict[str, Any]:
        raise Refused("quota_of_tomorrow", "too many", "")

    manager.answers["rollout.list"] = refuse
    done = run("rollout", "list")
    assert (done.code, done.err) == (Exit.FAILED, "error: too many\ncode: quota_of_tomorrow\n")


def forgeries(manager: HandManager, request: Request, envelope: bytes) -> list[bytes]:
    """Everything on the replies topic that is no valid reply to this request."""
    good = manager.reply(request, result={"forged": True})
    payload = dsse.decode(good).payload
    return [
        b"",
        b"\xff\xfe garbage",
        envelope,  # the request itself, echoed
        manager.signed(PayloadType.REPLY, payload, "alice"),
        manager.signed(PayloadType.REPLY, payload, "a"),
        manager.signed(PayloadType.REPLY, payload, "stranger"),
        manager.signed(PayloadType.HEARTBEAT, payload, "director"),
        dsse.encode(dsse.Envelope(PayloadType.REPLY, payload, ())),
        good.replace(b'"payload":"e', b'"payload":"f'),
        manager.reply(request, fleet="others", result={"forged": True}),
        manager.reply(request, operator="bob", result={"forged": True}),
    ]


def test_what_the_director_did_not_sign_for_us_is_ignored_and_counted(
    profile: Profile, manager: HandManager
) -> None:
    manager.answers["manager.status"] = lambda request: {"real": True}
    manager.before = lambda request, envelope: forgeries(manager, request, envelope)
    with Session(profile) as session:
        assert session.request("manager.status") == {"real": True}
        until(lambda: session.ignored >= 10, "the forged replies are counted")


def test_a_reply_to_another_request_is_not_taken(profile: Profile, manager: HandManager) -> None:
    manager.answers["manager.status"] = lambda request: {"real": True}
    manager.before = lambda request, _: [manager.reply(request, id="0" * 24, result={"real": False})]
    with Session(profile) as session:
        assert session.request("manager.status") == {"real": True}
        assert session.ignored == 0


def test_forgeries_alone_are_silence_and_the_error_says_so(profile: Profile, manager: HandManager) -> None:
    manager.before = lambda request, envelope: forgeries(manager, request, envelope)
    with Session(profile) as session, pytest.raises(FleetfootError, match="ignored") as caught:
        session.request("manager.status", timeout=1.0)
    assert caught.value.code == "timeout"


def test_after_some_silence_the_same_bytes_are_sent_once_more(profile: Profile, manager: HandManager) -> None:
    manager.answers["manager.status"] = lambda request: {"late": True}
    manager.deaf = 1
    with Session(profile, resend_after=0.2) as session:
        assert session.request("manager.status", timeout=10) == {"late": True}
    assert len(manager.envelopes) == 2
    assert len(set(manager.envelopes)) == 1


def test_a_manager_that_never_answers_is_a_timeout_after_two_tries(
    profile: Profile, manager: HandManager, run: Run
) -> None:
    done = run("device", "list", "--reply-timeout", "1s", "--json")
    assert (done.code, done.json["error"]["code"]) == (Exit.TIMEOUT, "timeout")
    assert len(manager.envelopes) == 2


def test_requests_of_several_threads_get_their_own_replies(profile: Profile, manager: HandManager) -> None:
    manager.answers["device.show"] = lambda request: {"id": request.arguments["device"]}
    names = [f"d-{number}" for number in range(20)]
    with Session(profile) as session, ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda name: session.request("device.show", arguments={"device": name}), names)
        assert [result["id"] for result in found] == names


def test_a_request_that_no_envelope_holds_is_refused_here(profile: Profile, manager: HandManager) -> None:
    with Session(profile) as session:
        with pytest.raises(FleetfootError) as caught:
            session.request("device.enroll", arguments={"text": "x" * 70_000})
        assert caught.value.code == "upgrade_too_large"
        with pytest.raises(FleetfootError, match="verb") as caught:
            session.request("Drop Tables")
        assert caught.value.code == "request_invalid"
    assert manager.heard == []


@contextmanager
def listener(*answers: bytes, heard: list[bytes] | None = None) -> Iterator[int]:
    """Something that accepts connections and says one of `answers` to each thing it hears; its port."""
    ends = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)

        def serve() -> None:
            connections = []
            while not ends.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                connections.append(connection)
                connection.settimeout(5)
                for answer in answers:
                    data = connection.recv(4096)
                    if heard is not None:
                        heard.append(data)
                    connection.sendall(answer)
            for connection in connections:
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        ends.set()
        thread.join(10)


def unreachable(profile: Profile, port: int) -> FleetfootError:
    elsewhere = replace(profile, broker=f"mqtt://127.0.0.1:{port}")
    with pytest.raises(FleetfootError) as caught, Session(elsewhere, connect_timeout=0.5):
        raise AssertionError("connected to what is no broker")
    return caught.value


def test_no_broker_is_unreachable_with_its_own_exit_code(
    profile: Profile, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert unreachable(profile, port).code == "broker_unreachable"
    monkeypatch.setenv("FLEETFOOT_BROKER", f"mqtt://127.0.0.1:{port}")
    assert run("device", "list").code == Exit.BROKER


def test_a_broker_that_says_nothing_is_unreachable_in_time(profile: Profile) -> None:
    with listener(b"") as port:
        error = unreachable(profile, port)
    assert (error.code, "did not answer within 0.5 s" in error.message) == ("broker_unreachable", True)


def test_a_broker_that_refuses_the_connection_is_quoted(profile: Profile) -> None:
    with listener(b"\x20\x02\x00\x05") as port:
        error = unreachable(profile, port)
    assert error.code == "broker_unreachable"
    assert "refuses the connection: Not authorized" in error.message


def test_a_broker_that_refuses_the_replies_is_no_silence(profile: Profile) -> None:
    with listener(b"\x20\x02\x00\x00", b"\x90\x03\x00\x01\x80") as port:
        error = unreachable(profile, port)
    assert error.code == "not_allowed"
    assert "refuses the subscription to ff/v1/operators/alice/replies" in error.message


def test_a_broker_that_never_confirms_a_subscription_is_unreachable(profile: Profile) -> None:
    with listener(b"\x20\x02\x00\x00", b"") as port:
        error = unreachable(profile, port)
    assert (error.code, "did not confirm a subscription" in error.message) == ("broker_unreachable", True)


def test_user_name_and_password_go_to_a_broker_that_wants_them(profile: Profile, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cret word\n")
    heard: list[bytes] = []
    named = replace(profile, username="alice@kitchens", password_file=tmp_path / "password")
    with listener(b"\x20\x02\x00\x05", heard=heard) as port:
        unreachable(named, port)
    assert heard[0].endswith(b"\x00\x0ealice@kitchens\x00\x0bs3cret word")


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_tls_files_that_are_none_are_named(profile: Profile, tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "ca.pem").write_text(content)
    with pytest.raises(FleetfootError, match="TLS files of profile kitchens") as caught:
        Session(replace(profile, broker="mqtts://127.0.0.1", ca_file=tmp_path / "ca.pem"))
    assert caught.value.code == "config_invalid"


def test_watched_messages_arrive_retained_or_new_and_nothing_else(
    profile: Profile, manager: HandManager
) -> None:
    ids = {"group": "ovens", "device": "d-1"}
    presence = topics.build(Kind.PRESENCE, **ids)
    manager.publish(presence, b"offline", retain=True)
    with Session(profile) as session:
        session.watch(presence)
        first = session.next_message(10)
        assert first is not None
        assert (first.topic.device, first.payload, first.retained) == ("d-1", b"offline", True)
        manager.publish(topics.build(Kind.DEVICE_EVENTS, **ids), b"not watched")
        manager.publish(presence, b"online", retain=True)
        second = session.next_message(10)
        assert second is not None
        assert second.payload == b"online"
        assert list(session.messages(timeout=0.1)) == []


def test_a_lost_connection_comes_back_and_is_subscribed_again(profile: Profile, manager: HandManager) -> None:
    presence = topics.build(Kind.PRESENCE, group="ovens", device="d-2")
    with EmbeddedBroker() as embedded:
        host, port = embedded.address
        other = HandManager(manager.fleet, BrokerAddress(f"mqtt://{host}:{port}", host, port))
        other.answers["manager.status"] = lambda request: {"back": True}
        with Session(replace(profile, broker=other.address.url)) as session:
            session.watch(presence)
            embedded.stop()
            again = EmbeddedBroker(host, port)
            again.start()
            try:
                other.start()
                assert session.request("manager.status", timeout=30) == {"back": True}
                other.publish(presence, b"online", retain=True)
                found = session.next_message(10)
                assert found is not None
                assert found.payload == b"online"
                other.stop()
            finally:
                again.stop()


def test_a_read_only_session_signs_what_changes_nothing_and_nothing_else(
    profile: Profile, manager: HandManager
) -> None:
    manager.answers["manager.status"] = lambda request: {"engine": "running"}
    with Session(profile, read_only=True) as session:
        assert session.request("manager.status") == {"engine": "running"}
        with pytest.raises(FleetfootError) as refused:
            session.request("rollout.pause", arguments={"rollout": "r-1"})
    assert refused.value.code == "read_only"
    assert [request.verb for request in manager.heard] == ["manager.status"]


def test_what_a_read_only_session_signs_is_what_the_manager_takes_for_reading() -> None:
    reading = {verb for verb, right in rights.VERBS.items() if right is Right.READ}
    assert reading | {"rollout.plan"} == READING
