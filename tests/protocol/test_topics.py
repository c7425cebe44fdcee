"""Topics (contract section 1): what is built is parsed, and nothing else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocol.samples import digest

from fleetfoot_protocol import topics
from fleetfoot_protocol.topics import Kind, Topic, TopicError

IDS = st.from_regex(rf"\A{topics.ID_PATTERN}\Z")
FIELDS: dict[str, st.SearchStrategy[str]] = {
    "digest": st.text("0123456789abcdef", min_size=64, max_size=64),
    "step": st.integers(1, 999_999_999).map(str),
}
ROOTS = st.from_regex(r"\A[A-Za-z0-9_-]{1,8}(/[A-Za-z0-9_-]{1,8}){0,4}\Z")


def fields_of(kind: Kind) -> list[str]:
    shape = next(shape for known, shape, _, _ in topics.rows() if known is kind)
    return [level[1:-1] for level in shape.split("/") if level.startswith("{")]


def sample(kind: Kind) -> dict[str, str]:
    known = {"digest": digest("x"), "step": "3"}
    return {name: known.get(name, name) for name in fields_of(kind)}


@given(st.sampled_from(Kind), st.data())
def test_every_topic_that_is_built_is_parsed_back(kind: Kind, data: st.DataObject) -> None:
    root = data.draw(ROOTS)
    ids = {name: data.draw(FIELDS.get(name, IDS)) for name in fields_of(kind)}
    text = topics.build(kind, root=root, **ids)
    parsed = topics.parse(text, root=root)
    assert parsed == Topic(kind, **ids)
    assert parsed.text(root) == text
    assert "." not in text.removeprefix(root)


@given(st.text(max_size=40).map(lambda rest: f"ff/v1/{rest}"))
def test_any_text_is_a_topic_that_builds_itself_or_none(text: str) -> None:
    parsed = topics.parse(text)
    assert parsed is None or parsed.text() == text


def test_every_kind_has_one_row_and_no_two_look_alike() -> None:
    rows = topics.rows()
    assert [kind for kind, _, _, _ in rows] == list(Kind)
    built = [topics.build(kind, **sample(kind)) for kind in Kind]
    assert len(set(built)) == len(built)


# The table of the contract, as flags: retained and quality of service.
NOT_RETAINED = {Kind.GROUP_EVENTS, Kind.PROGRESS, Kind.DEVICE_EVENTS, Kind.REQUESTS, Kind.REPLIES}


@pytest.mark.parametrize("kind", Kind)
def test_events_progress_and_requests_alone_are_not_retained(kind: Kind) -> None:
    topic = Topic(kind, **sample(kind))
    assert topic.retained is (kind not in NOT_RETAINED)
    assert topic.qos == (0 if kind is Kind.PROGRESS else 1)


BAD = ["", "A", "a.b", "a/b", "+", "#", "a\n", "-a", "ä", "z" * 64, "a b", "a\0"]


@pytest.mark.parametrize("text", BAD)
@pytest.mark.parametrize("kind", [kind for kind in Kind if sample(kind)])
def test_nothing_but_an_id_goes_into_a_topic(kind: Kind, text: str) -> None:
    for name in fields_of(kind):
        with pytest.raises(TopicError, match=name):
            topics.build(kind, **{**sample(kind), name: text})
        with pytest.raises(TopicError, match=name):
            topics.subscription(kind, **{name: text})
        with pytest.raises(TopicError):
            Topic(kind, **{**sample(kind), name: text}).text()


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_id_is_refused_by_its_name(text: str) -> None:
    assert not topics.is_id(text)
    with pytest.raises(TopicError, match="device"):
        topics.check_id(text, "device")
    assert topics.check_id("dev-001", "device") == "dev-001"


def test_a_missing_or_superfluous_id_is_refused() -> None:
    with pytest.raises(TopicError, match="takes"):
        topics.build(Kind.STATUS, group="north")
    with pytest.raises(TopicError, match="takes"):
        topics.build(Kind.STATUS, group="north", device="d", component="kiosk")
    with pytest.raises(TopicError, match="component"):
        topics.subscription(Kind.STATUS, component="kiosk")


@pytest.mark.parametrize(
    "root", ["", "/", "a//b", "a/", "/a", "a.b", "+", "#", "a b", "ä", "a/b/c/d/e/f", "a\n"]
)
def test_a_root_that_brokers_would_not_bear_is_refused(root: str) -> None:
    with pytest.raises(TopicError):
        topics.build(Kind.MANAGER_PRESENCE, root=root)
    with pytest.raises(TopicError):
        topics.subscription(Kind.MANAGER_PRESENCE, root=root)


def test_another_root_is_another_house() -> None:
    text = topics.build(Kind.MANAGER_PRESENCE, root="plant/ff")
    assert text == "plant/ff/v1/manager/presence"
    assert topics.parse(text) is None
    assert topics.parse(text, root="plant") is None
    assert topics.parse(text, root="plant/ff") == Topic(Kind.MANAGER_PRESENCE)


def _matches(subscription: str, topic: str) -> bool:
    """MQTT 3.1.1, section 4.7, for filters with `+` only."""
    wanted, levels = subscription.split("/"), topic.split("/")
    return len(wanted) == len(levels) and all(a in ("+", b) for a, b in zip(wanted, levels, strict=True))


@pytest.mark.parametrize("kind", Kind)
def test_a_subscription_matches_the_topics_of_its_kind_and_of_no_other(kind: Kind) -> None:
    wide = topics.subscription(kind)
    narrow = topics.subscription(kind, **sample(kind))
    for other in Kind:
        text = topics.build(other, **sample(other))
        assert _matches(wide, text) is (other is kind)
        assert _matches(narrow, text) is (other is kind)
    assert narrow == topics.build(kind, **sample(kind))


SLOTS = {
    Kind.GROUP_DESIRED: "group.component",
    Kind.DEVICE_DESIRED: "own.component",
    Kind.HEARTBEAT: "heartbeat",
    Kind.PROBE: "probe.component",
    Kind.TRUST_ROOT: "root.3",
    Kind.RELEASE: f"manifest.{digest('x')}",
}


@pytest.mark.parametrize("kind", Kind)
def test_only_what_a_device_receives_has_a_slot(kind: Kind) -> None:
    assert topics.slot_of(Topic(kind, **sample(kind))) == SLOTS.get(kind)
