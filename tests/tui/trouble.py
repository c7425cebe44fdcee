"""What goes on in the staged fleet: a rollout that tripped, all that hurts, and what a manager would say."""

from collections.abc import Callable
from typing import Any

from tests.tui.stage import COMPONENT, NOON, ROLLOUT, Stage

from fleetfoot_protocol import times
from fleetfoot_protocol.reports import ComponentStatus


def troubled(stage: Stage) -> None:
    """Thirty devices in two groups in the middle of a rollout that tripped, with everything that hurts."""
    stage.manager()
    stage.publish_releases()
    for group in ("grills", "ovens"):
        stage.desired(group, "1.1.0")
    for n in range(1, 31):
        group = "ovens" if n % 3 else "grills"
        stage.device(f"{group[:-1]}-{n:02}", group, _PARTS.get(n, _quiet)(stage), **_CIRCUMSTANCES.get(n, {}))
    stage.progress()


def _quiet(stage: Stage) -> ComponentStatus:
    return stage.ended("1.1.0", "completed", "1.1.0", rollout="r-3c8d1f5g2h")


_PARTS: dict[int, Callable[[Stage], ComponentStatus]] = {
    2: lambda s: s.ended("1.2.0", "rolled_back", "1.1.0", "upgrade_boot_failed", "exit status 1 twice"),
    4: lambda s: s.works("1.2.0", "downloading", "1.1.0"),
    5: lambda s: s.works("1.2.0", "probation", "1.2.0"),
    7: lambda s: s.ended("1.2.0", "failed", "1.0.0", "upgrade_disk_full", "needs 3 MB more"),
    9: lambda s: s.rejects("1.2.0", "1.0.0", "upgrade_pinned", "pinned locally to 1.0.0"),
    10: lambda s: s.works("1.2.0", "waiting", "1.1.0"),
}
_CIRCUMSTANCES: dict[int, dict[str, Any]] = {
    3: {"presence": "offline", "ago": 90_000},
    8: {"alarms": ("upgrade_stale",)},
    9: {"presence": "offline", "ago": 400},
}


def managed(stage: Stage) -> None:
    """What a manager would answer about the troubled fleet."""
    ends = {2: ("rolled_back", "upgrade_boot_failed"), 7: ("failed", "upgrade_disk_full")}
    devices = []
    for n in range(1, 31):
        group = "ovens" if n % 3 else "grills"
        terminal, code = ends.get(n, ("healthy", "") if n == 1 else ("pending", ""))
        row = {
            "id": f"{group[:-1]}-{n:02}",
            "group": group,
            "wave": 1 if n in (1, 2, 7) else 2 if n < 16 else 3,
            "terminal": terminal,
        }
        if row["wave"] == 1:
            row |= {"since": times.to_text(NOON - 480), "ended": times.to_text(NOON - 480 + 30 * n)}
        devices.append(row | ({"code": code} if code else {}))
    rollout = {
        "rollout": ROLLOUT,
        "component": COMPONENT,
        "version": "1.2.0",
        "groups": ["grills", "ovens"],
        "state": "tripped",
        "reason": "2 failures in wave 1",
        "wave": 1,
        "waves": [3, 15, 30],
        "total": 30,
        "counts": {"pending": 27, "healthy": 1, "rolled_back": 1, "failed": 1},
        "revision": 7,
        "started": "2026-11-20T11:52:00Z",
        "requested_by": "alice",
        "strategy": "waves",
        "breaker": 1,
    }
    shown = {
        "devices": devices,
        "took": {"devices": 1, "median": 30, "p90": 30},
        "before": {"rollout": "r-3c8d1f5g2h", "version": "1.1.0", "devices": 30, "median": 22, "p90": 41},
        "causes": [{"group": "ovens", "code": code, "count": 1} for _, code in ends.values()],
    }
    waits = rollout | {
        "rollout": "r-waits",
        "state": "awaiting_approval",
        "wave": 0,
        "counts": {"pending": 30},
    }
    halfway = rollout | {
        "rollout": "r-5f0b7h3n1v",
        "component": "scale",
        "version": "2.4.1",
        "state": "paused",
        "reason": "the next wave awaits approval",
        "counts": {"healthy": 2, "failed": 1, "pending": 27},
        "approve_each_wave": True,
    }
    past = rollout | {
        "rollout": "r-3c8d1f5g2h",
        "version": "1.1.0",
        "state": "completed",
        "wave": 3,
        "counts": {"healthy": 30},
        "started": "2026-11-18T09:00:00Z",
        "revision": 12,
    }
    plan = {
        "component": COMPONENT,
        "version": "1.2.0",
        "digest": stage.releases["1.2.0"][0],
        "groups": ["grills", "ovens"],
        "total": 30,
        "waves": [3, 15, 30],
        "settle": 300,
        "breaker": 1,
        "refusing": [{"device": "grill-09", "code": "upgrade_pinned", "reason": "pinned locally to 1.0.0"}],
        "refusing_count": 1,
        "already_count": 1,
        "approval": True,
    }
    releases = [
        {"component": COMPONENT, "version": version, "digest": stage.releases[version][0],
         "channel": "stable", "counter": n, "life": life, "created": "2026-11-08T22:13:20Z", "length": 4096,
         "platforms": ["linux/arm64"], "notes": notes}
        for n, (version, life, notes) in enumerate(
            (("1.0.0", "archived", ""), ("1.1.0", "live", "Faster."), ("1.2.0", "blessed", "New ovens.")), 1
        )
    ]  # fmt: skip
    releases[2]["recalled"] = "does not boot"
    rate = {"rollouts": 4, "completed": 3, "success_percent": 87}
    stage.asker.answers |= {
        "device.upgrades": {
            "releases": [
                {
                    "version": "1.2.0",
                    "channel": "stable",
                    "direct": False,
                    "code": "upgrade_refused_before",
                    "reason": "it failed here before",
                }
            ]
        },
        "device.downgrades": {"releases": [{"version": "1.0.0", "channel": "stable", "direct": True}]},
        "rollout.list": {"rollouts": [rollout, waits, halfway, past]},
        "rollout.history": {"components": {COMPONENT: rate}},
        "rollout.show": lambda asked: rollout | shown | {"rollout": asked["rollout"]},
        "rollout.plan": {"plan": plan},
        "rollout.start": {"rollout": "r-new0000001", "state": "awaiting_approval", "revision": 0},
        "release.compare": {
            "component": COMPONENT,
            "from": releases[1],
            "to": releases[2],
            "between": [{"version": "1.2.0", "notes": "New ovens.", "recalled": "does not boot"}],
            "platforms": [{"platform": "linux/arm64", "from_length": 4096, "to_length": 5120}],
        },
        "release.list": {"releases": releases[::-1]},
        "audit.list": {"entries": stage.audit},
    }
