"""The demo with a safety taken out, to show that its figures notice: only tests start this.

``python -m fleetfoot_sim.sabotage manager ...`` runs the manager with a breaker that never trips;
``python -m fleetfoot_sim.sabotage host SPEC`` hosts devices that believe any new version at once.
"""

import sys


def _manager(arguments: list[str]) -> int:
    from fleetfoot_client.cli import main
    from fleetfoot_manager import rollout_gate

    # The demo asks for a breaker of 0 as well: then a wave without a success is all that could trip.
    rollout_gate.succeeded = lambda rollout: True
    return main(["manager", *arguments])


def _host(arguments: list[str]) -> int:
    from fleetfoot_agent.worker import probation
    from fleetfoot_sim import host

    class Credulous(probation.Observer):
        def judge(self, seen: probation.Look, now: float) -> probation.Judgement:
            return probation.Judgement("healthy")

    probation.Observer = Credulous  # type: ignore[misc]
    return host.main(arguments)


if __name__ == "__main__":
    sys.exit({"manager": _manager, "host": _host}[sys.argv[1]](sys.argv[2:]))
