"""The fields that documents share (contract section 2): ids, versions, times, URLs, text for people."""

import pytest
from tests.protocol.altering import accept, malformed

from fleetfoot_protocol import documents, times, versions

BAD_IDS = ["", "-a", "A", "a.b", "a b", "a/b", "a+", "#", "ä", "a\n", "a" * 64, "a_b", "\u202ea"]


@pytest.mark.parametrize("text", BAD_IDS)
def test_an_id_may_stand_in_a_topic_and_else_is_none(text: str) -> None:
    for field in ("fleet", "group", "component"):
        malformed("desired_group", lambda d, field=field: d.update({field: text}))  # type: ignore[misc]
    malformed("desired_device", lambda d: d.update(device=text))
    malformed("desired_group", lambda d: d["targets"][0].update(include=[text]))


BAD_VERSIONS = [
    "../x",
    "1.0",
    "1",
    "v1.0.0",
    "1.0.0.0",
    "01.0.0",
    "1.0.0-01",
    "1.0.0-",
    "1.0.0-a..b",
    "1.0.0\n",
    "1.0.0 ",
    " 1.0.0",
    "1.0.0+build",
    "1.0.0-rc.1+build.5",
    "1.0.0\u202e",
    "\u0661.0.0",
    "1.0.0-é",
    "1." * 150,
    "1.0." + "0" * 61,
    "1.0.0-" + "a" * 59,
    "",
]


@pytest.mark.parametrize("text", BAD_VERSIONS)
def test_a_version_is_semver_without_build_metadata(text: str) -> None:
    assert malformed("release", lambda d: d.update(version=text)).startswith("version: ")


@pytest.mark.parametrize("text", ["0.0.0", "1.2.3-rc.1", "10.20.30", "1.0.0--", "1.0.0-" + "a" * 58])
def test_versions_of_the_contract_are_accept(text: str) -> None:
    accept("release", lambda d: d.update(version=text))


def test_versions_are_ordered_as_semver_says() -> None:
    rising = (
        "1.0.0-alpha 1.0.0-alpha.1 1.0.0-alpha.beta 1.0.0-beta 1.0.0-beta.2 1.0.0-beta.11 1.0.0-rc.1 1.0.0"
    )
    keys = [versions.key(text) for text in [*rising.split(), "1.0.10", "1.1.0", "2.0.0"]]
    assert keys == sorted(keys)
    assert len(set(map(str, keys))) == len(keys)
    assert [versions.major(text) for text in ("0.9.0", "12.0.0-rc.1")] == [0, 12]


BAD_TIMES = [
    "2026-01-31T12:00:00",
    "2026-01-31 12:00:00Z",
    "2026-01-31T12:00:00z",
    "2026-01-31T12:00:00+00:00",
    "2026-01-31T12:00:00.5Z",
    "2026-1-31T12:00:00Z",
    "2026-02-30T12:00:00Z",
    "2026-01-31T24:00:00Z",
    "2026-01-31T12:00:60Z",
    "1969-12-31T23:59:59Z",
    "0000-01-01T00:00:00Z",
    "2026-01-31T12:00:00Z\n",
    "\u0662\u0660\u0662\u0666-01-31T12:00:00Z",
    "1769860800",
    "",
]


@pytest.mark.parametrize("text", BAD_TIMES)
def test_a_time_is_utc_in_whole_seconds(text: str) -> None:
    assert malformed("desired_group", lambda d: d.update(expires=text)).startswith("expires: ")


@pytest.mark.parametrize("seconds", [0, 1, 951_782_400, 1_769_860_800, 253_402_300_799])
def test_times_are_written_and_read_alike(seconds: int) -> None:
    assert times.from_text(times.to_text(seconds)) == seconds
    assert times.to_text(seconds + 0.9) == times.to_text(seconds)


def test_a_document_is_expired_from_the_very_second() -> None:
    at = times.from_text("2026-01-31T12:00:00Z")
    assert not documents.expired("2026-01-31T12:00:00Z", at - 1)
    assert documents.expired("2026-01-31T12:00:00Z", at)


BAD_URLS = [
    "",
    "mirror.example",
    "//mirror.example",
    "ftp://mirror.example",
    "file:///etc/passwd",
    "http://",
    "http:///blobs",
    "http://:80/",
    " http://mirror.example",
    "http://mirror.example ",
    "http://mirror.example/a b",
    "http://mirror.example/\n",
    "http://mirror.example/?",
    "http://mirror.example/?a=1",
    "http://mirror.example/#",
    "http://mirror.example/#a",
    "http://user@mirror.example",
    "http://user:word@mirror.example",
    "http://@mirror.example",
    "http://mirror.example\\@evil.example",
    "http://mirror.example:99999",
    "http://mirror.example:port",
    "http://[::1",
    "http://mirror.exämple",
    "http://mirror.example/\u202e",
    "http://mirror.example/" + "a" * 500,
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_source_is_a_plain_base_url(url: str) -> None:
    malformed("release", lambda d: d["artifacts"][0].update(sources=[url]))
    malformed("desired_group", lambda d: d.update(mirror=url))


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8080", "https://mirror.example/a/b/", "http://[::1]:80/x", "http://h/~a%20b"]
)
def test_base_urls_of_every_kind_are_accept(url: str) -> None:
    accept("desired_group", lambda d: d.update(mirror=url))


INVISIBLE = ["\u202e", "\u2066", "\u200b", "\x00", "\x1b", "\x7f", "\u0085", "\u2028", "\ufeff", "\ue000"]


@pytest.mark.parametrize("char", INVISIBLE)
def test_characters_without_a_shape_are_refused_wherever_people_read(char: str) -> None:
    text = f"safe{char}text"
    malformed("release", lambda d: d.update(notes=text))
    malformed("status", lambda d: d.update(labels={"site": text}))
    malformed("status", lambda d: d.update(boot_id=text))
    malformed("status", lambda d: d["platform"].update(hw=text))
    malformed("status", lambda d: d["components"]["kiosk"].update(reason=text))
    malformed("rollout", lambda d: d.update(reason=text))
    malformed("desired_group", lambda d: d["targets"][0].update(selector={"site": text}))


def test_notes_may_have_lines_and_single_lines_may_not() -> None:
    accept("release", lambda d: d.update(notes="one\n\ttwo"))
    malformed("release", lambda d: d.update(notes="one\rtwo"))
    malformed("rollout", lambda d: d.update(reason="one\ntwo"))
