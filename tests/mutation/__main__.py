"""`python -m tests.mutation [CORE …]`: plant mistakes into the cores and say which no quick test notices.

A mutant is never written to disk: it is compiled into a process forked for it alone, which then runs the
core's tests up to the first that fails. The judgements of survivors stand in docs/mutation.md; the exit code
is 1 if one survives that is not judged, or a judged one survives no more.
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
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType

# What every run needs, loaded once before the forks.
import hypothesis
import pydantic  # noqa: F401 - to have it loaded
import pytest
from hypothesis import Phase
from tests.mutation.judged import judgements, row
from tests.mutation.operators import Mutant, mutants
from tests.mutation.targets import TARGETS, Target

#: A mutant that takes this many times the seconds of the sound code, and a few more, is noticed as a hang.
PATIENCE, GRACE = 6.0, 20.0
_NOTICED, _HANGS, _SURVIVES = "noticed", "hangs", "SURVIVES"


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
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    # That hypothesis is loaded already is wanted: its asserts are none of the tests'.
    loaded = "-Wignore::pytest.PytestAssertRewriteWarning"
    return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--timeout=0", loaded, *tests]))


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


def _await(pids: dict[int, float], patience: float) -> Iterator[tuple[int, str]]:
    """At least one process that has ended, with what became of it; hanging ones are ended here."""
    while True:
        ended = False
        for pid, since in list(pids.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            late = not done and time.monotonic() - since > patience
            if late:
                os.kill(pid, 9)
                os.waitpid(pid, 0)
            if done or late:
                ended = True
                survives = not late and os.waitstatus_to_exitcode(status) == 0
                yield pid, _SURVIVES if survives else _HANGS if late else _NOTICED
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


def _run(target: Target, planted: list[tuple[str, Mutant]], jobs: int) -> Iterator[tuple[Mutant, str]]:
    patience = PATIENCE * _sound(target) + GRACE
    running: dict[int, float] = {}
    mutant_of: dict[int, Mutant] = {}
    waiting = list(reversed(planted))
    while waiting or running:
        while waiting and len(running) < jobs:
            module, mutant = waiting.pop()
            with mutant.planted() as tree:
                pid = _start(module, tree, target.tests)
            running[pid], mutant_of[pid] = time.monotonic(), mutant
        for pid, became in _await(running, patience):
            del running[pid]
            yield mutant_of.pop(pid), became


def _load(target: Target) -> None:
    for module in target.loaded:
        importlib.import_module(module)
    if spoilt := set(target.modules) & sys.modules.keys():
        raise SystemExit(f"loading {', '.join(target.loaded)} also loads {', '.join(sorted(spoilt))}")


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
    _load(target)
    since, ends = time.monotonic(), dict.fromkeys((_NOTICED, _HANGS, _SURVIVES), 0)
    alive: set[tuple[str, str]] = set()
    for mutant, became in _run(target, planted, args.jobs):
        ends[became] += 1
        if became is _SURVIVES:
            alive.add(mutant.key)
            if mutant.key not in known:
                print(f"{mutant.where} line {mutant.line}\n{row(*mutant.key, '')}", flush=True)
    stale = {mutant.key for _, mutant in planted} & known.keys() - alive
    if not args.only:
        names = tuple(module.rpartition(".")[2] + ":" for module in target.modules)
        stale |= {key for key in known.keys() - alive if f"{key[0]}:".startswith(names)}
    for where, change in sorted(stale):
        print(f"judged, but lives no more: {where}: {change}")
    counts = ", ".join(f"{count} {word}" for word, count in ends.items())
    print(f"{name}: {len(planted)} mutants, {counts}; {time.monotonic() - since:.0f} s", flush=True)
    return not stale and alive <= known.keys()


def main() -> int:
    """Examine the cores that the command line names, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("cores", nargs="*", metavar="CORE", help=f"of {', '.join(TARGETS)} (default: all)")
    parser.add_argument("--only", default="", metavar="TEXT", help="mutants whose name contains this")
    parser.add_argument("--judged", action="store_true", help="only those that docs/mutation.md judges")
    parser.add_argument("--list", action="store_true", help="say what would be planted, and end")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="how many at a time")
    args = parser.parse_args()
    if unknown := set(args.cores) - TARGETS.keys():
        parser.error(f"no core {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    # The same examples each time; and what failed need not be made small.
    quick = hypothesis.settings(
        derandomize=True, database=None, deadline=None, phases=(Phase.explicit, Phase.generate)
    )
    hypothesis.settings.register_profile("mutation", quick)
    hypothesis.settings.load_profile("mutation")
    # In the order of TARGETS: what a later core loads may import an earlier one.
    fit = [_examine(name, args) for name in TARGETS if name in (args.cores or TARGETS)]
    return 0 if all(fit) else 1


if __name__ == "__main__":
    sys.exit(main())
