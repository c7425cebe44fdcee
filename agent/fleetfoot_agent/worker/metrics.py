"""What monitors want to know, as a file for node_exporter's textfile collector; no port is opened for it."""

from pathlib import Path

from fleetfoot_agent import durable
from fleetfoot_protocol import times
from fleetfoot_protocol.reports import Status


def write(path: Path, status: Status) -> None:
    """Write the metrics of a status to `path`; the collector wants it to end in .prom. Raises `OSError`."""
    durable.write_file(path, text(status).encode(), 0o644)


def text(status: Status) -> str:
    """The metrics of a status, in the text format of Prometheus."""
    lines: list[str] = []

    def metric(name: str, kind: str, about: str, *samples: tuple[dict[str, str], float]) -> None:
        if samples:
            lines.extend((f"# HELP fleetfoot_{name} {about}", f"# TYPE fleetfoot_{name} {kind}"))
        for labels, value in samples:
            inner = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
            lines.append(
                f"fleetfoot_{name}{{{inner}}} {value:.15g}" if inner else f"fleetfoot_{name} {value:.15g}"
            )

    who = {"device": status.device, "group": status.group, "version": status.agent}
    parts = sorted(status.components.items())
    metric("agent_info", "gauge", "The agent of this device.", (who, 1))
    metric("status_time_seconds", "gauge", "When the status was written.", ({}, times.from_text(status.at)))
    metric(
        "upgrades_enabled", "gauge", "Whether orders from outside are obeyed.", ({}, status.policy.enabled)
    )
    metric("disk_free_bytes", "gauge", "What the agent can still write.", ({}, status.disk.free))
    metric("lost_events_total", "counter", "Events dropped for want of room.", ({}, status.lost_events))
    metric("alarm", "gauge", "Alarms that stand.", *(({"code": code}, 1) for code in status.alarms))
    running = [
        ({"component": name, "version": c.running.version if c.running else "", "state": str(c.state)}, 1)
        for name, c in parts
    ]
    metric("component_info", "gauge", "What runs, and what is being done.", *running)
    well = [({"component": name}, all(check.healthy for check in c.checks)) for name, c in parts]
    metric("component_checks_healthy", "gauge", "Whether the last health checks passed.", *well)
    refused = [({"component": name}, len(c.refused)) for name, c in parts]
    metric("component_refused_releases", "gauge", "Releases that failed here.", *refused)
    return "\n".join([*lines, ""])


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
