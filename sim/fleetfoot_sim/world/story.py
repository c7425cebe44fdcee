"""What a seed tells: everything that people, power, weather and strangers do, and when.

A story is a list of happenings, each of which is whole in itself, so that any of them can be left out: so the
shortest story of a failure is found.
"""

import random
from typing import Any, NamedTuple

from fleetfoot_manager.faults import Stage
from fleetfoot_sim.world.fleet import GROUPS, RELEASES

SECONDS = 450.0
VERSIONS = [facts[0] for facts in RELEASES]


class Happening(NamedTuple):
    """At `at` seconds, `what` happens."""

    at: float
    what: str
    arguments: dict[str, Any]

    def line(self) -> str:
        """As people read it."""
        shown = " ".join(f"{name}={value}" for name, value in self.arguments.items())
        return f"{self.at:7.1f} s  {self.what} {shown}"


#: what -> how often, relative to the others.
WEIGHTS = {
    "start": 3, "retry": 2, "pause": 3, "resume": 3, "decide": 4, "cancel": 1, "approve": 3, "recall": 1,
    "lift": 1, "own": 2, "release": 1, "behave": 8, "crash": 6, "sleep": 5, "hang": 2, "lie": 2, "outage": 2,
    "die": 1, "join": 2, "move": 2, "forget": 1, "weather": 5, "empty": 2, "cut": 3, "replay": 3, "forge": 2,
    "kill": 6, "twin": 2, "policy": 1,
}  # fmt: skip


def draw(seed: int) -> list[Happening]:
    """The story of a seed."""
    chance = random.Random(f"story {seed}")  # noqa: S311 - a story that can be told again, no secret
    count = chance.randint(5, 20)
    names = chance.choices(list(WEIGHTS), list(WEIGHTS.values()), k=count)
    # Most of it happens while a rollout is under way, and that is soon after somebody has started one.
    starts = [2.0, chance.uniform(100, 250), chance.uniform(250, 400)]
    moments = sorted(min(SECONDS, chance.choice(starts) + chance.expovariate(1 / 25.0)) for _ in range(count))
    asked = _start(chance)
    bad = [
        Happening(1.0, "behave", {"device": chance.randint(0, 99), "version": asked["version"], "word": word})
        for word in chance.choice([[], [], ["dies"], ["unready"], ["dies", "dies", "unready"]])
    ]
    rest = [Happening(at, name, _arguments(name, chance)) for at, name in zip(moments, names, strict=True)]
    more = [Happening(at, "start", _start(chance)) for at in starts[1:]]
    told = [*bad, Happening(2.0, "start", asked), *more, *rest]
    if seed % 200 >= 100:
        told = _formed(told, seed)
    if seed % 200 >= 150:
        told = _bounded(told, seed)
    if seed % 10 == 8:
        told = told + _probes(told, seed)
    return sorted(told, key=lambda one: one.at)


def _probes(told: list[Happening], seed: int) -> list[Happening]:
    """Somebody asks the fleet itself before, while and after things happen, and while the engine is paused.

    In every tenth seed, so that the stories of the others stay what they were.
    """
    chance = random.Random(f"probes {seed}")  # noqa: S311 - a story that can be told again, no secret
    asked = []
    paused = [one.at + 10.0 for one in told if one.what == "halt"]
    for at in (1.0, chance.uniform(5, 120), chance.uniform(120, SECONDS), *paused):
        arguments = {
            "version": chance.choice(VERSIONS),
            "groups": chance.choice([["hall"], ["yard"], list(GROUPS)]),
            "mode": chance.choice(["at_least", "at_least", "exactly"]),
            "deadline": chance.choice([20, 120, 600]),
        }
        asked.append(Happening(at, "probe", arguments))
    return asked


def _formed(told: list[Happening], seed: int) -> list[Happening]:
    """The same story with rollouts of other forms: the second hundred of each two hundred seeds.

    What they are is drawn apart, so that the stories of the first hundred stay what they were.
    """
    chance = random.Random(f"forms {seed}")  # noqa: S311 - a story that can be told again, no secret
    formed = [Happening(chance.uniform(5, SECONDS), "activate", {}) for _ in range(3)]
    for one in told:
        arguments = dict(one.arguments)
        if one.what == "start":
            arguments |= _form(chance)
        elif one.what == "decide" and arguments["decision"] == "rollback" and chance.random() < 0.4:
            arguments |= {"batch_size": 1, "settle": 5}
        if "batch_size" in arguments or "batch_pct" in arguments:
            arguments = {n: v for n, v in arguments.items() if n not in ("waves", "immediate")}
        if "named" in arguments:
            arguments.pop("selector", None)
        formed.append(Happening(one.at, one.what, arguments))
    return formed


def _bounded(told: list[Happening], seed: int) -> list[Happening]:
    """The same story with closer bounds: the last fifty of each two hundred seeds."""
    chance = random.Random(f"bounds {seed}")  # noqa: S311 - a story that can be told again, no secret
    bounded = []
    for one in told:
        arguments = one.arguments | (_bounds(chance) if one.what == "start" else {})
        bounded.append(Happening(one.at, one.what, arguments))
    return bounded + _halt(seed)


def _halt(seed: int) -> list[Happening]:
    """Perhaps somebody pauses the whole engine, and perhaps somebody lets it go on before the calm."""
    chance = random.Random(f"halt {seed}")  # noqa: S311 - a story that can be told again, no secret
    if chance.random() > 0.4:
        return []
    at = chance.choice([5.0, 130.0, 260.0]) + chance.expovariate(1 / 40.0)
    return [Happening(at, "halt", {}), Happening(at + chance.choice([30, 90, 200]), "go_on", {})]


def _bounds(chance: random.Random) -> dict[str, Any]:
    """What bounds a rollout beside its waves."""
    drawn: list[dict[str, Any]] = [
        {"failure_percent": chance.choice([10, 25, 50]), "breaker": 0},
        {"min_successes": chance.choice([2, 3])},
        {"priority": chance.choice([1, 2, 3])},
        {"ttl": chance.choice([60, 90, 120])},
        {"supersede": True},
    ]
    bounds: dict[str, Any] = {}
    for one in drawn:
        if chance.random() < 0.3:
            bounds |= one
    return bounds


def _form(chance: random.Random) -> dict[str, Any]:
    """What is asked for beside, or instead of, waves over whole groups."""
    form: dict[str, Any] = {}
    if chance.random() < 0.3:
        form |= chance.choice([{"batch_size": 1}, {"batch_size": 2}, {"batch_pct": 40}])
    if chance.random() < 0.15:
        form |= {"groups": [], "named": tuple(chance.sample(range(8), 3))}
    elif chance.random() < 0.3:
        form["stage"] = chance.choice(["first", "only"])
    seldom: list[dict[str, Any]] = [
        {"failure_percent": chance.choice([10, 50])},
        {"min_successes": 2},
        {"offline": "skip"},
        {"approve_each_wave": True},
        {"priority": chance.choice([1, 2])},
        {"ttl": chance.choice([60, 120, 300])},
        {"supersede": True},
        {"canaries": (chance.randint(0, 99),)},
    ]
    for one in seldom:
        if chance.random() < 0.15:
            form |= one
    return form


def _start(chance: random.Random) -> dict[str, Any]:
    asked: dict[str, Any] = {
        "version": chance.choice(VERSIONS[1:] + VERSIONS[1:4]),
        "groups": chance.choice([["hall"], ["yard"], list(GROUPS)]),
        "settle": chance.choice([0, 10, 30]),
        "device_timeout": chance.choice([60, 120]),
        "breaker": chance.choice([0, 1, 1, 2]),
        "mode": chance.choice(["at_least", "at_least", "exactly"]),
    }
    if chance.random() < 0.2:
        asked["immediate"] = True
    else:
        asked["waves"] = chance.choice([["10%", "50%", "100%"], [1, "100%"], [1, 2, 3, 4], ["25%", "60%"]])
    if chance.random() < 0.2:
        asked["selector"] = {"site": chance.choice(["north", "south"])}
    return asked


def _arguments(name: str, chance: random.Random) -> dict[str, Any]:
    device = chance.randint(0, 99)
    version = chance.choice(VERSIONS[1:])
    match name:
        case "start":
            return _start(chance)
        case "decide":
            return {"decision": chance.choice(["continue", "rollback", "rollback", "abort"])}
        case "recall" | "lift":
            return {"version": version}
        case "own":
            return {"device": device, "version": version, "pin": chance.random() < 0.4}
        case "behave":
            return {"device": device, "version": version, "word": chance.choice(["dies", "unready", "good"])}
        case "crash":
            return {"device": device, "steps": chance.randint(1, 9)}
        case "sleep" | "hang" | "outage":
            return {"device": device, "seconds": chance.choice([20, 100, 300])}
        case "move":
            return {"device": device, "group": chance.choice(GROUPS)}
        case "join":
            return {"group": chance.choice(GROUPS)}
        case "lie" | "die" | "forget" | "release":
            return {"device": device}
        case "weather":
            odds = [round(chance.uniform(0, 0.4), 2) for _ in range(3)]
            return {"lost": odds[0], "doubled": odds[1], "late": odds[2], "seconds": chance.choice([30, 150])}
        case "cut":
            return {"who": chance.choice(["manager", "devices"])}
        case "replay" | "forge":
            return {"group": chance.choice(GROUPS), "version": version}
        case "kill":
            stage = chance.choice([str(stage) for stage in Stage])
            return {"stage": stage, "effects": chance.randint(1, 12), "away": chance.choice([1, 20, 90])}
        case "policy":
            return {"group": chance.choice(GROUPS)}
        case _:
            return {}
