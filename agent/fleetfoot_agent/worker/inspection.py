"""`fleetfoot-agent status` and `verify`: what a person at the device wants to know.

A worker may be at work meanwhile: nothing is written here, and no folder is tidied up as its writer would.
"""

import json
from dataclasses import dataclass

from fleetfoot_agent import durable
from fleetfoot_agent.config import AgentConfig
from fleetfoot_agent.layout import Layout, version_name
from fleetfoot_agent.seam import SocketSeam
from fleetfoot_agent.spool import folders, forms
from fleetfoot_agent.systemd import unit_seam
from fleetfoot_agent.worker import extract
from fleetfoot_agent.worker.memory import load_root
from fleetfoot_agent.worker.platform_facts import abis, this_platform
from fleetfoot_protocol import trust
from fleetfoot_protocol.allow import Permission, find_artifact
from fleetfoot_protocol.codes import Code, info
from fleetfoot_protocol.documents import read
from fleetfoot_protocol.errors import FleetfootError, UpgradeError
from fleetfoot_protocol.reports import ComponentStatus, Status
from fleetfoot_protocol.states import BADGES
from fleetfoot_protocol.tree import tree_sha256
from fleetfoot_protocol.trust import TrustRoot

_STATUS_CAP = 64 * 1024


def _status(config: AgentConfig) -> tuple[Status, bytes]:
    data = durable.read_regular(config.spool / "out", "status.json", _STATUS_CAP)
    if data is None:
        raise FleetfootError(
            "not_found",
            "the agent has not run yet: there is no status",
            remedy="start it with 'fleetfoot-agent run', or put a release on with 'fleetfoot-agent install'",
        )
    return read(Status, data), data


def status(config: AgentConfig, as_json: bool) -> int:
    """Print the last status: as the document, or in words with code, cause and remedy."""
    found, data = _status(config)
    if as_json:
        print(data.decode())
        return 0
    told = folders.read_in(config.spool, "in", "link.json", cap=forms.FORM_CAP)
    link = None if told is None else forms.parse_link(told)
    print(f"device {found.device}  group {found.group}  fleet {found.fleet}  agent {found.agent}")
    connected = "connected" if link and link.up else "not connected"
    print(f"broker {connected}  trust root {found.root}  at {found.at}")
    allowed = "enabled" if found.policy.enabled else "disabled (agent.toml, upgrade.enabled)"
    print(f"upgrades from outside: {allowed}")
    for name, component in found.components.items():
        _print_component(config, name, component)
    for alarm in found.alarms:
        _print_code("alarm", alarm, "")
    return 0


def _print_component(config: AgentConfig, name: str, component: ComponentStatus) -> None:
    badge = BADGES[component.state]
    running = component.running.version if component.running else "nothing"
    previous = component.previous.version if component.previous else "none"
    stage = "" if badge.word == component.state else f" ({component.state})"
    print(f"\n{name}: runs {running}  way back {previous}  {badge.glyph} {badge.word}{stage}")
    try:
        configured = config.components[name]
        state = (unit_seam(configured) or SocketSeam(configured.socket, timeout=1.0)).state()
        print(f"  process {state.pid or '-'}  {'up' if state.active else 'down'}  restarts {state.restarts}")
        log = Layout(config.install_root, name).folder / "log"
        print(f"  log {log}" if configured.unit is None else f"  log journalctl -u {configured.unit}")
    except (FleetfootError, KeyError) as error:
        print(f"  process unknown: {error}")
    if component.answered:
        answer = component.answered
        print(f"  answered {answer.verdict} to sequence {answer.sequence}: {answer.reason}")
        if answer.code:
            _print_code("  because", answer.code, "")
    if component.last_error:
        _print_code("  last error", component.last_error.code, component.last_error.message)
    for outcome in component.outcomes[-3:]:
        print(f"  {outcome.at}  {outcome.version}  {outcome.outcome}  {outcome.code}")


def _print_code(label: str, code: str, message: str) -> None:
    print(f"{label}: {code}" + (f": {message}" if message else ""))
    indent = " " * (len(label) - len(label.lstrip()) + 2)
    if code in set(Code):
        print(f"{indent}{info(Code(code)).meaning}; {info(Code(code)).remedy}")


@dataclass(frozen=True, slots=True)
class TreeReport:
    """One installed tree: whether it is what its signed release says, or why not."""

    component: str
    name: str
    current: bool
    problem: str


def verify(config: AgentConfig, as_json: bool) -> int:
    """Compare every installed tree with its release, whose signatures are checked first. 0 if so."""
    root = load_root(config.worker_dir)
    reports = [r for name in config.components for r in _component_trees(config, root, name)]
    if as_json:
        rows = [
            {"component": r.component, "tree": r.name, "current": r.current, "problem": r.problem}
            for r in reports
        ]
        print(json.dumps({"ok": all(not r.problem for r in reports), "trees": rows}))
    else:
        for report in reports:
            mark = "ok " if not report.problem else "BAD"
            current = " (current)" if report.current else ""
            print(f"{mark} {report.component} {report.name}{current} {report.problem}".rstrip())
        if not reports:
            print("nothing is installed")
    return 0 if all(not r.problem for r in reports) else 1


def _component_trees(config: AgentConfig, root: TrustRoot, component: str) -> list[TreeReport]:
    layout = Layout(config.install_root, component)
    try:
        current = layout.read_current()
    except UpgradeError as error:
        return [TreeReport(component, "current", True, error.message)]
    reports = []
    for name in layout.installed():
        try:
            problem = tree_problem(config, root, layout, name)
        except FleetfootError as error:
            problem = str(error)
        reports.append(TreeReport(component, name, current == f"versions/{name}", problem))
    return reports


def tree_problem(config: AgentConfig, root: TrustRoot, layout: Layout, name: str) -> str:
    """Why the tree is not what was signed; empty if it is. Raises `FleetfootError`, which says why not."""
    data = layout.envelope(name)
    if data is None:
        return "its release envelope is missing"
    release, digest = trust.verify_release(data, root)
    if version_name(release.version, digest) != name:
        return f"the release beside it is another one ({Code.UPGRADE_RELEASE_MISMATCH})"
    artifact = find_artifact(release, this_platform(config.hardware), abis())
    if isinstance(artifact, Permission):
        return "its release has no artifact for this platform"
    if tree_sha256(extract.hash_tree(layout.tree(name))) != artifact.tree_sha256:
        return f"its files differ from the signed release ({Code.UPGRADE_TREE_MISMATCH})"
    return ""
