"""`fleetfoot broker check`: it sees what is there, on real brokers and behind proxies with one fault each."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from tests.brokers import runs
from tests.brokers.faulty import FAULTS, Proxy
from tests.brokers.mosquitto import Mosquitto, bare
from tests.brokers.runs import BARE, EMBEDDED, PAGE, SHIPPED, Brokers, Report, holds

from fleetfoot_client import terminal
from fleetfoot_client.broker import report
from fleetfoot_client.broker.report import DEMO, PRODUCTION, ROWS, Finding
from fleetfoot_client.broker.rights import Role
from fleetfoot_client.broker.target import Target
from fleetfoot_client.cli import main
from fleetfoot_client.commands import broker as command
from fleetfoot_client.exits import Exit
from fleetfoot_client.profiles import Address

mosquitto = pytest.mark.needs("mosquitto")
every_broker = pytest.mark.needs("mosquitto", "nats", "rabbitmq")
DENIED = {"denied_write", "denied_will", "denied_read"}


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Brokers]:
    with Brokers(tmp_path_factory.mktemp("brokers")) as brokers:
        yield brokers


@pytest.fixture(scope="module")
def reports(brokers: Brokers) -> dict[tuple[str, Role], Report]:
    return brokers.reports()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    broker = bare(tmp_path_factory.mktemp("sound"))
    broker.start()
    try:
        yield broker
    finally:
        broker.end(signal.SIGTERM)


@pytest.fixture(scope="module")
def behind_proxies(sound: Mosquitto) -> dict[str, Report]:
    """What is found behind each fault, and behind a proxy without one."""
    with ExitStack() as stack:
        urls = {"none": sound.url}
        for name, (fault, _) in FAULTS.items():
            urls[name] = stack.enter_context(Proxy(sound.ports[0], fault)).url
        found = runs.together(*((url, (), None) for url in urls.values()))
    return dict(zip(urls, found, strict=True))


@mosquitto
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_flips_exactly_its_rows(behind_proxies: dict[str, Report], name: str) -> None:
    sound, found = holds(behind_proxies["none"]), holds(behind_proxies[name])
    assert {row for row in sound if sound[row] != found[row]} == FAULTS[name][1]
    assert not any(found[row] for row in FAULTS[name][1])


@mosquitto
def test_losing_what_is_retained_makes_a_broker_unsafe_even_for_a_demo(
    behind_proxies: dict[str, Report],
) -> None:
    assert behind_proxies["drops_retained"]["safe_for"] == {"demo": False, "production": False}
    assert behind_proxies["drops_retained"]["exit"] == Exit.FAILED
    assert behind_proxies["duplicates"]["safe_for"]["demo"] is True
    assert behind_proxies["duplicates"]["exit"] == Exit.OK


@every_broker
def test_the_table_of_the_documentation_is_what_the_runs_say(
    reports: dict[tuple[str, Role], Report],
) -> None:
    assert runs.on_page(PAGE.read_text()) == runs.table(reports), "run `python -m tests.brokers.runs`"


@every_broker
def test_our_mosquitto_is_safe_for_production_and_says_what_a_device_cannot_see(
    reports: dict[tuple[str, Role], Report],
) -> None:
    manager, device = reports[SHIPPED, Role.MANAGER], reports[SHIPPED, Role.DEVICE]
    seen = {name: value for name, value in holds(manager).items() if name not in DENIED}
    assert set(seen.values()) == {True}
    assert (device["exit"], device["safe_for"]) == (Exit.OK, {"demo": None, "production": None})
    assert holds(device)["denied_write"] is True
    assert holds(device)["retained_exact"] is None
    details = {check["name"]: check["detail"] for check in device["checks"]}
    assert details["retained_exact"] == "the broker denies this identity topics below ffcheck/"


@every_broker
def test_a_broker_that_asks_nobody_is_good_for_a_demo_only(reports: dict[tuple[str, Role], Report]) -> None:
    # Asked whether it is good for production, and whether for a demo.
    for broker, code in ((EMBEDDED, Exit.FAILED), (BARE, Exit.OK)):
        found = reports[broker, Role.DEVICE]
        assert found["safe_for"] == {"demo": True, "production": False}
        assert found["exit"] == code
        assert not any(holds(found)[row] for row in (*DENIED, "tls", "anonymous_refused"))


@every_broker
def test_the_report_has_the_form_that_programs_rely_on(reports: dict[tuple[str, Role], Report]) -> None:
    for found in reports.values():
        assert set(found) == {"exit", "broker", "checks", "safe_for"}
        assert [check["name"] for check in found["checks"]] == list(ROWS)
        for check in found["checks"]:
            assert set(check) == {"name", "holds", "detail", "consequence"}
            assert check["detail"]
            assert check["consequence"] == ROWS[check["name"]].consequence


@mosquitto
def test_nothing_stays_behind(sound: Mosquitto, behind_proxies: dict[str, Report]) -> None:
    del behind_proxies  # they have run, one of them behind a proxy that hides what is retained
    with Target(Address("127.0.0.1", sound.ports[0], False)).peer() as peer:
        peer.subscribe("#")
        peer.ping()
        assert peer.collect(1, 0.2) == []


@every_broker
def test_people_read_what_follows_and_for_what_it_is_safe(reports: dict[tuple[str, Role], Report]) -> None:
    checks = reports[EMBEDDED, Role.DEVICE]["checks"]
    text = command._text([Finding(check["name"], check["holds"], check["detail"]) for check in checks])
    assert "\nretained exact      yes    delivered\n" in text
    assert "\nkeepalive           NO     a silent connection stands " in text
    assert f"\ntls                {ROWS['tls'].consequence}\n" in text
    assert "\nsafe for demo: yes\n" in text
    assert "\nsafe for production: NO (" in text


def test_where_there_is_no_broker_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["broker", "check", "mqtt://127.0.0.1:1"]) == Exit.BROKER
    assert "code: broker_unreachable" in capsys.readouterr().err


@every_broker
def test_a_broker_whose_certificate_nobody_vouches_for_is_not_spoken_to(
    brokers: Brokers, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["broker", "check", brokers.shipped.issue(Role.DEVICE, "x").url]) == Exit.BROKER
    assert "CERTIFICATE_VERIFY_FAILED" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ["http://127.0.0.1"],
        ["mqtt://127.0.0.1", "--ca-file", "ca.crt"],
        ["mqtts://127.0.0.1", "--cert-file", "x.crt"],
        ["mqtts://127.0.0.1", "--ca-file", "nowhere.crt"],
        ["mqtt://127.0.0.1", "--topic-root", "a b"],
        ["mqtt://127.0.0.1", "--as", "king"],
    ],
)
def test_wrong_options_are_refused_before_anything_is_tried(options: list[str]) -> None:
    assert main(["broker", "check", *options]) == Exit.USAGE


@pytest.mark.parametrize(
    ("values", "safe"),
    [
        ({"retained_exact": True, "tls": True}, (True, True)),
        ({"retained_exact": True, "tls": False}, (True, False)),
        ({"retained_exact": False, "tls": True}, (False, False)),
        ({"retained_exact": None, "tls": True}, (None, None)),
        ({"retained_exact": None, "tls": False}, (None, False)),
        ({"retained_exact": True, "redelivery": False, "ordering": None, "tls": True}, (True, True)),
        ({"redelivery": True}, (None, None)),
    ],
)
def test_the_verdict_needs_every_row_it_needs(
    values: dict[str, bool | None], safe: tuple[bool | None, bool | None]
) -> None:
    findings = [Finding(name, value, "") for name, value in values.items()]
    assert tuple(report.safe_for(findings, purpose) for purpose in (DEMO, PRODUCTION)) == safe


def test_what_a_broker_says_is_shown_literally() -> None:
    text = command._text([Finding("tls", False, "\x1b[2Jgone")])
    assert "\x1b" not in text
    assert terminal.literal("\x1b[2Jgone") in text
