"""What is mutated, and the quick tests that must notice it, the quickest first."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A core: its modules and the tests that hold it.

    loaded: what is imported once for all mutants, to save time; nothing that imports one of `modules`.
    """

    modules: tuple[str, ...]
    tests: tuple[str, ...]
    loaded: tuple[str, ...]


TARGETS = {
    "resolve": Target(
        ("fleetfoot_protocol.resolve",),
        ("tests/protocol/test_vectors.py", "tests/protocol/test_resolve_fixpoint.py"),
        ("fleetfoot_protocol.reports", "fleetfoot_protocol.trust", "fleetfoot_protocol.tree"),
    ),
    "lifecycle": Target(
        ("fleetfoot_agent.worker.lifecycle",),
        (
            "tests/agent/test_lifecycle_facts.py",
            "tests/agent/test_lifecycle.py",
            "tests/agent/test_lifecycle_stateful.py",
        ),
        ("fleetfoot_agent.worker.steps", "fleetfoot_agent.worker.record"),
    ),
    "rollout": Target(
        (
            "fleetfoot_manager.rollout",
            "fleetfoot_manager.rollout_acts",
            "fleetfoot_manager.rollout_devices",
            "fleetfoot_manager.rollout_events",
            "fleetfoot_manager.rollout_gate",
            "fleetfoot_manager.rollout_plan",
            "fleetfoot_manager.rollout_reports",
            "fleetfoot_manager.rollout_state",
        ),
        (
            "tests/manager/test_rollout.py",
            "tests/manager/test_rollout_planned.py",
            "tests/manager/test_rollout_devices.py",
            "tests/manager/test_rollout_told.py",
            "tests/manager/test_rollout_words.py",
            "tests/manager/test_rollout_records.py",
            "tests/manager/test_rollout_acts.py",
            "tests/manager/test_rollout_gate.py",
            "tests/manager/test_compose.py",
            "tests/manager/test_rollout_forms.py",
            "tests/manager/test_rollout_strategies.py",
        ),
        ("fleetfoot_manager.effects", "fleetfoot_protocol.resolve", "fleetfoot_protocol.states"),
    ),
}
