"""The files of broker_conf, read without a broker: in step with the tables, and closed.

Of EMQX's nothing else is tried.
"""

import re

import pytest
from docs import generate_acls
from tests.brokers.mosquitto import LISTENERS, SHIPPED

from fleetfoot_client.broker.rights import RIGHTS, Role, verb
from fleetfoot_protocol import topics
from fleetfoot_protocol.topics import Kind

FILES = generate_acls.files()
IDS = {"group": "g", "component": "c", "rollout": "r", "digest": "0" * 64, "step": "1"}
_FILE_OF = {role: "manager.acl" if role is Role.MANAGER else f"{role}s.acl" for role in Role}


def rules(role: Role, name: str) -> list[tuple[str, str]]:
    """(verb, filter) of a role's list, as the broker reads them for whoever is called `name`."""
    found = re.findall(r"^pattern (\w+) (\S+)$", (SHIPPED / _FILE_OF[role]).read_text(), re.M)
    return [(what, text.replace("%u", name)) for what, text in found]


def matches(rule: str, topic: str) -> bool:
    levels, given = rule.split("/"), topic.split("/")
    if levels[-1] == "#":
        return given[: len(levels) - 1] == levels[:-1]
    return len(levels) == len(given) and all(a in ("+", b) for a, b in zip(levels, given, strict=True))


def may(role: Role, name: str, what: str, topic: str) -> bool:
    return any(what in verb and matches(rule, topic) for verb, rule in rules(role, name))


@pytest.mark.parametrize("name", FILES)
def test_an_access_list_is_in_step_with_the_tables(name: str) -> None:
    assert (SHIPPED / name).read_text() == FILES[name], "run `python -m docs.generate_acls`"


def test_the_list_of_emqx_is_in_step_with_the_tables_and_goes_by_the_listeners_of_its_configuration() -> None:
    text = generate_acls.EMQX.read_text()
    assert text == generate_acls.emqx(), "run `python -m docs.generate_acls`"
    rules = re.findall(r'^\{allow, \{listener, "ssl:(\w+)"\}, (\w+), \["([^"]+)"\]\}\.$', text, re.M)
    assert text.splitlines()[-1] == "{deny, all}."
    # Nothing else is in it, and nothing in it is of nobody.
    assert len(rules) == sum(not line.startswith("%%") for line in text.splitlines()) - 1
    conf = (generate_acls.EMQX.parent / "emqx.conf").read_text()
    listeners = dict(re.findall(r'^listeners\.ssl\.(\w+) \{\n  bind = "0\.0\.0\.0:(\d+)"', conf, re.M))
    assert {name for name, _, _ in rules} == set(listeners) == {generate_acls.name_of(role) for role in Role}
    assert {int(port) for port in listeners.values()} == set(LISTENERS.values())
    authorities = re.findall(r'cacertfile = "/etc/emqx/fleetfoot/(\w+)-ca\.crt"', conf)
    assert authorities == list(listeners)
    assert ("devices", "publish", "ff/v1/groups/+/devices/${username}/status") in rules
    assert ("devices", "all", "ff/v1/groups/+/devices/${username}/presence") in rules


def test_there_is_a_list_for_each_role_and_no_other() -> None:
    assert {path.name for path in SHIPPED.glob("*.acl")} == set(FILES) == set(_FILE_OF.values())


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("kind", Kind)
def test_a_role_may_do_what_the_table_of_topics_says_and_nothing_else(role: Role, kind: Kind) -> None:
    shape = next(shape for found, shape, _, _ in topics.rows() if found is kind)
    fields = re.findall(r"\{(\w+)\}", shape)
    for who in ("me", "other"):
        ids = {field: IDS.get(field, who) for field in fields}
        topic = topics.build(kind, **ids)
        own = RIGHTS[role].own
        for what in ("read", "write"):
            expected = what in verb(role, kind) and (own not in fields or who == "me")
            assert may(role, "me", what, topic) is expected, (role, what, topic)


def test_the_table_of_rights_has_the_writers_of_the_contract() -> None:
    # docs/topics.md is made from this one, and held to the contract by its own tests.
    from docs.generate_topics import ROWS

    for kind, row in ROWS.items():
        writer = Role(row.writer.partition(",")[0])
        writers = {role for role in Role if kind in RIGHTS[role].writes}
        assert writers == {writer, Role.MANAGER}
    assert RIGHTS[Role.INTEGRATOR].writes == frozenset()


def test_every_listener_demands_a_certificate_of_its_own_authority() -> None:
    text = (SHIPPED / "mosquitto.conf").read_text()
    general, *blocks = re.split(r"^listener ", text, flags=re.M)
    assert "\nper_listener_settings true\n" in general
    assert [int(block.split("\n")[0]) for block in blocks] == list(LISTENERS.values())
    authorities, lists = set(), set()
    for block in blocks:
        settings = dict(line.split(" ", 1) for line in block.splitlines()[1:] if line and line[0] != "#")
        assert settings["require_certificate"] == settings["use_identity_as_username"] == "true"
        assert settings["allow_anonymous"] == settings["allow_zero_length_clientid"] == "false"
        assert settings["tls_version"] == "tlsv1.3"
        authorities.add(settings["cafile"])
        lists.add(settings["acl_file"])
    assert len(authorities) == len(lists) == len(LISTENERS)


def test_every_general_setting_has_its_reason() -> None:
    general = (SHIPPED / "mosquitto.conf").read_text().partition("\nlistener ")[0]
    explained: list[str] = []
    reason = False
    for line in general.splitlines():
        if line.startswith("#"):
            reason = True
        elif not line:
            reason = False
        elif reason:
            explained.append(line)
        else:
            raise AssertionError(f"no reason for {line!r}")
    assert len(explained) > 10
