"""`python -m tests.mutation [CORE …]`: plant mistakes into the cores and say which no quick test notices.

A mutant is never written to disk: it is compiled into a process forked for it alone, which then runs those of
the core's tests that can meet it, up to the first that fails. What became of it is kept in `.mutation/` until
code or tests change, so that a run that was ended goes on where it was. The judgements of survivors stand in
docs/mutation.md; the exit code is 1 if one survives that is not judged, or a judged one survives no more.
"""

import argparse
import ast
import contextlib
import importlib
import importlib.abc
import importlib.util
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType

# What every run needs, loaded once before the forks.
import pydantic  # noqa: F401 - to have it loaded
import pytest
from tests.mutation.judged import judgements, row
from tests.mutation.kept import HANGS, NOTICED, SURVIVES, Kept
from tests.mutation.live import Nursery, OneProfile, Started
from tests.mutation.operators import Mutant, mutants
from tests.mutation.targets import TARGETS, Target

#: A mutant that takes this many times the seconds of the sound code, and a few more, is noticed as a hang.
PATIENCE, GRACE = 6.0, 20.0
# That hypothesis is loaded already is wanted: its asserts are none of the tests'.
_QUIETLY = (
    "-x",
    "-q",
    "-p",
    "no:cacheprovider",
    "--timeout=0",
    "-Wignore::pytest.PytestAssertRewriteWarning",
)


class _Planted(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives the mutated module to whoever imports it."""

    def __init__(self, name: str, origin: str, code: CodeType) -> None:
        self.name, self.origin, self.code = name, origin, code

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        if name != self.name:
            return None
        return importlib.util.spec_from_file_location(name, self.origin, loader=self)

    def exec_module(self, module: ModuleType) -> None:
        exec(self.code, module.__dict__)  # noqa: S102


def _child(module: str, origin: str, code: CodeType, tests: Sequence[str]) -> int:
    sys.meta_path.insert(0, _Planted(module, origin, code))
    _hush()
    # One file after the other: most are noticed before the second would be collected.
    for test in tests:
        if failed := int(pytest.main([*_QUIETLY, test], plugins=[OneProfile()])):
            return failed
    return 0


def _hush() -> None:
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)


def _start(module: str, tree: ast.Module, tests: Sequence[str]) -> int:
    origin = str(source_of(module))
    code = compile(tree, origin, "exec")
    pid = os.fork()
    if pid == 0:
        result = 70
        with contextlib.suppress(BaseException):
            result = _child(module, origin, code, tests)
        os._exit(result)
    return pid


def _await(pids: dict[int, float]) -> Iterator[tuple[int, str]]:
    """At least one process that has ended, with what became of it; those past their moment are ended here."""
    while True:
        ended = False
        for pid, until in list(pids.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            late = not done and time.monotonic() > until
            if late:
                os.kill(pid, 9)
                os.waitpid(pid, 0)
            if done or late:
                ended = True
                survives = not late and os.waitstatus_to_exitcode(status) == 0
                yield pid, SURVIVES if survives else HANGS if late else NOTICED
        if ended:
            return
        time.sleep(0.01)


def source_of(module: str) -> Path:
    """The file of a module of ours, found without importing any package of ours."""
    # The rooms are the folders beside `tests`.
    root = Path(__file__).parents[2]
    (found,) = root.glob(f"*/{module.replace('.', '/')}.py")
    return found


def _sound(target: Target) -> float:
    """Seconds of the core's tests over the sound code. Raises SystemExit if they fail."""
    module = target.modules[0]
    since = time.monotonic()
    pid = _start(module, ast.parse(source_of(module).read_text()), target.tests)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0:
        raise SystemExit(f"the sound code fails already: pytest {' '.join(target.tests)}")
    return time.monotonic() - since


def _run(work: Sequence[tuple[Mutant, Started, float]], jobs: int) -> Iterator[tuple[Mutant, str]]:
    """Start each, so many at a time, and say what became of it."""
    running: dict[int, float] = {}
    mutant_of: dict[int, Mutant] = {}
    waiting = list(reversed(work))
    while waiting or running:
        while waiting and len(running) < jobs:
            mutant, start, seconds = waiting.pop()
            pid = start()
            running[pid], mutant_of[pid] = time.monotonic() + PATIENCE * seconds + GRACE, mutant
        for pid, became in _await(running):
            del running[pid]
            yield mutant_of.pop(pid), became


def _in_the_nursery(target: Target, planted: Sequence[tuple[str, Mutant]], kept: Kept, jobs: int) -> None:
    """What can be planted into loaded functions: in a process of its own, as this one must not load them."""

    def run(work: Sequence[tuple[Mutant, Started, float]]) -> None:
        for mutant, became in _run(work, jobs):
            kept.add(mutant, became)

    pid = os.fork()
    if pid == 0:
        result = 1
        with contextlib.suppress(Exception):
            _hush()
            plugins = (OneProfile(), Nursery(planted, source_of, run))
            result = int(pytest.main([*_QUIETLY, *target.tests], plugins=plugins))
        os._exit(result)
    # No test is run in there itself, which pytest has a number for.
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) not in (0, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise SystemExit(f"the sound code fails already: pytest {' '.join(target.tests)}")


def _compiled(target: Target, planted: Sequence[tuple[str, Mutant]], kept: Kept, jobs: int) -> None:
    """What is no function's code: the module is compiled anew for each."""
    for module in target.loaded:
        importlib.import_module(module)
    if spoilt := set(target.modules) & sys.modules.keys():
        raise SystemExit(f"loading {', '.join(target.loaded)} also loads {', '.join(sorted(spoilt))}")
    seconds = _sound(target)

    def starter(module: str, mutant: Mutant) -> Started:
        def start() -> int:
            with mutant.planted() as tree:
                return _start(module, tree, target.tests)

        return start

    for mutant, became in _run([(one, starter(module, one), seconds) for module, one in planted], jobs):
        kept.add(mutant, became)


def _examine(name: str, args: argparse.Namespace) -> bool:
    target, known = TARGETS[name], judgements()
    planted = [
        (module, mutant)
        for module in target.modules
        for mutant in mutants(source_of(module).read_text(), module.rpartition(".")[2])
        if args.only in " ".join(mutant.key) and (not args.judged or mutant.key in known)
    ]
    if args.list:
        print("\n".join(f"{m.where} line {m.line}: {m.change}" for _, m in planted))
        return True
    since = time.monotonic()
    kept = Kept(name, [source_of(module) for module in target.modules], target.tests)
    if args.anew:
        kept.forget()
    for how in (_in_the_nursery, _compiled):
        before = kept.read()
        left = [(module, mutant) for module, mutant in planted if mutant.key not in before]
        if left:
            how(target, left, kept, args.jobs)
    became = kept.read()
    alive = {mutant.key for _, mutant in planted if became[mutant.key] == SURVIVES}
    for _, mutant in planted:
        if mutant.key in alive - known.keys():
            print(f"{mutant.where} line {mutant.line}\n{row(*mutant.key, '')}", flush=True)
    stale = {mutant.key for _, mutant in planted} & known.keys() - alive
    if not args.only:
        names = tuple(module.rpartition(".")[2] + ":" for module in target.modules)
        stale |= {key for key in known.keys() - alive if f"{key[0]}:".startswith(names)}
    for where, change in sorted(stale):
        print(f"judged, but lives no more: {where}: {change}")
    ends = Counter(became[mutant.key] for _, mutant in planted)
    counts = ", ".join(f"{ends[word]} {word}" for word in (NOTICED, HANGS, SURVIVES))
    print(f"{name}: {len(planted)} mutants, {counts}; {time.monotonic() - since:.0f} s", flush=True)
    return not stale and alive <= known.keys()


def main() -> int:
    """Examine the cores that the command line names, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("cores", nargs="*", metavar="CORE", help=f"of {', '.join(TARGETS)} (default: all)")
    parser.add_argument("--only", default="", metavar="TEXT", help="mutants whose name contains this")
    parser.add_argument("--judged", action="store_true", help="only those that docs/mutation.md judges")
    parser.add_argument("--list", action="store_true", help="say what would be planted, and end")
    parser.add_argument("--anew", action="store_true", help="forget what a run before found")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="how many at a time")
    args = parser.parse_args()
    if unknown := set(args.cores) - TARGETS.keys():
        parser.error(f"no core {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    # In the order of TARGETS: what a later core loads may import an earlier one.
    fit = [_examine(name, args) for name in TARGETS if name in (args.cores or TARGETS)]
    return 0 if all(fit) else 1


if __name__ == "__main__":
    sys.exit(main())
