"""`python -m fleetfoot_sim.world SEEDS [FROM]`: many runs, and the shortest story of each that fails."""

import argparse
import logging
import sys
import tempfile
import time
from pathlib import Path

from fleetfoot_sim.world import shortest
from fleetfoot_sim.world.story import draw
from fleetfoot_sim.world.world import run


def main() -> int:
    """Run the seeds that the command line names. 0 if all hold."""
    parser = argparse.ArgumentParser(prog="python -m fleetfoot_sim.world", description=__doc__)
    parser.add_argument("seeds", type=int, help="how many")
    parser.add_argument("first", type=int, nargs="?", default=0, help="the first one (default: 0)")
    parser.add_argument("--trace", action="store_true", help="print the course of each run")
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    failed, begin = 0, time.monotonic()
    for seed in range(args.first, args.first + args.seeds):
        failure = shortest.failure_of(seed, draw(seed))
        if failure is not None:
            failed += 1
            print(shortest.tell(seed, failure), flush=True)
        elif args.trace:
            with tempfile.TemporaryDirectory() as folder:
                print("\n".join(run(Path(folder), seed, draw(seed))))
    seconds = time.monotonic() - begin
    print(f"{args.seeds} seeds, {failed} failed, {seconds:.1f} s ({seconds / args.seeds:.3f} s each)")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
