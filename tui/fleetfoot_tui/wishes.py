"""What can be wished of a new rollout: the form's fields, how each is read, and the command for it. Pure."""

import argparse
import shlex
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from fleetfoot_client import options
from fleetfoot_client.commands import rollout_text
from fleetfoot_client.commands.rollout_arguments import wave_list
from fleetfoot_protocol.documents import MAX_LISTED


class Wish(ValueError):
    """What is missing or wrong in the form."""


def _words(text: str) -> list[str]:
    return text.replace(",", " ").split()


def _labels(text: str) -> dict[str, str]:
    return dict(options.label(word) for word in _words(text))


def _percent(text: str) -> int:
    return options.positive(text.removesuffix("%"))


def _one_of(*words: str, about: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise argparse.ArgumentTypeError(about)
        return text

    return read


def _devices(text: str) -> list[str]:
    found = _words(text)
    if len(found) > MAX_LISTED:
        raise argparse.ArgumentTypeError(f"at most {MAX_LISTED} by name; of more, name groups and labels")
    return found


def _yes(meant: Any, about: str) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        if not "yes".startswith(text):
            raise argparse.ArgumentTypeError(f"yes ({about}), or nothing")
        return meant

    return read


def _each_wave(text: str) -> bool:
    if not "each wave".startswith(text):
        raise argparse.ArgumentTypeError("each wave (behind the first), or nothing: as the groups have it")
    return True


class Field(NamedTuple):
    """A field of the form, and the option of `fleetfoot rollout start` that says the same.

    The name is that of the manager's argument. `read` raises ArgumentTypeError with what is wrong.
    """

    name: str
    label: str
    example: str
    option: str
    read: Callable[[str], Any]


#: In the order in which the command says them.
_EVERY = (
    Field("component", "component", "kiosk", "--component", str),
    Field("version", "version", "1.2.0", "--version", str),
    Field("groups", "groups", "ovens grills", "--group", _words),
    Field("devices", "or devices", "oven-1 oven-2", "--device", _devices),
    Field("selector", "labels", "site=berlin", "--selector", _labels),
    Field("canaries", "canaries", "oven-3 grill-1", "--canary", _words),
    Field("stage", "staging", "first or only", "--stage", _one_of(
        *rollout_text.STAGING,
        about="first (everybody stages before the first wave) or only (and waits then)")),
    Field("batches", "or batches", "20% or 50", "", str),
    Field("batch_delay_seconds", "batch delay", "10m", "--batch-delay", options.duration),
    Field("waves", "waves", "10%,50%,100% or at once", "--waves", wave_list),
    Field("settle", "settle", "5m", "--settle", options.duration),
    Field("breaker", "trips at", "1", "--breaker", options.natural),
    Field("failure_percent", "or above", "10% failures", "--failure-percent", _percent),
    Field("min_successes", "needs well", "1 in each wave", "--min-successes", options.positive),
    Field("offline", "offline", "wait or skip", "--offline", _one_of(
        "wait", "skip", about="wait (up to the device timeout) or skip")),
    Field("device_timeout", "silent after", "5m", "--device-timeout", options.duration),
    Field("approve_each_wave", "approval", "each wave", "--approve-each-wave", _each_wave),
    Field("priority", "priority", "0 to 100", "--priority", options.natural),
    Field("ttl", "expires in", "2d", "--ttl", options.duration),
    Field("supersede", "supersede", "yes, what is under way", "--supersede", _yes(
        True, "it takes the place of what is under way for the component in these groups")),
    Field("mode", "exactly", "yes, newer ones go down", "--exactly", _yes(
        "exactly", "devices that run something newer go down")),
)  # fmt: skip
FIELDS = {field.name: field for field in _EVERY}
#: The lines of the form.
FORM: tuple[tuple[str, ...], ...] = (
    ("component", "version"),
    ("groups", "devices"),
    ("waves", "batches"),
    ("settle", "batch_delay_seconds"),
    ("breaker", "failure_percent"),
    ("canaries", "stage"),
    ("min_successes", "approve_each_wave"),
    ("offline", "device_timeout"),
    ("priority", "ttl"),
    ("mode", "supersede"),
    ("selector",),
)
#: What whoever approves may make gentler.
PACE = ("waves", "batches", "settle", "breaker", "failure_percent")
#: Arguments that are no field of their own -> the option that says the same.
OPTIONS = {"batch_pct": "--batch-percent", "batch_size": "--batch-size", "immediate": "--immediate"}
_AT_ONCE = ("at once", "once", "immediate")
_TIMES = ("settle", "batch_delay_seconds", "device_timeout", "ttl")


def wishes(values: dict[str, str]) -> dict[str, Any]:
    """The arguments of `rollout.plan`. Wish says what is missing, or cannot be understood."""
    for name in ("component", "version"):
        if not values[name]:
            raise Wish(f"{name} is missing")
    if not _words(values["groups"]) and not _words(values["devices"]):
        raise Wish("no group and no device is named")
    if values["waves"] and values["batches"]:
        raise Wish("either waves or batches")
    if values["waves"] in _AT_ONCE:
        return read(values | {"waves": ""}, FIELDS) | {"immediate": True}
    return read(values, FIELDS)


def read(values: dict[str, str], names: Iterable[str]) -> dict[str, Any]:
    """Those of these fields that are filled in. Wish where one cannot be understood."""
    found: dict[str, Any] = {}
    for name in names:
        text = values.get(name, "")
        if not text:
            continue
        try:
            if name == "batches":
                found |= _batches(text)
            else:
                found[name] = FIELDS[name].read(text)
        except argparse.ArgumentTypeError as error:
            raise Wish(f"{FIELDS[name].label}: {error}") from None
    return found


def _batches(said: str) -> dict[str, int]:
    """Batches of percent or of devices."""
    name, number = ("batch_pct", said[:-1]) if said.endswith("%") else ("batch_size", said)
    return {name: options.positive(number)}


def command(asked: dict[str, Any]) -> str:
    """The command that starts the same."""
    words = ["fleetfoot", "rollout", "start"]
    for name, value in asked.items():
        option = OPTIONS.get(name) or FIELDS[name].option
        if value is True or name == "mode":
            words.append(option)
            continue
        for one in _said(name, value):
            words += [option, one]
    return shlex.join(words)


def _said(name: str, value: Any) -> list[str]:
    if name == "waves":
        return [",".join(map(str, value))]
    if name in _TIMES:
        return [f"{value:g}s"]
    if isinstance(value, dict):
        return [f"{key}={one}" for key, one in value.items()]
    return [str(one) for one in (value if isinstance(value, list) else [value])]
