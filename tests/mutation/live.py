"""Mistakes planted into functions that are loaded already: no import and no collection for each mutant.

pytest collects once. Then, for every mutant, a process is forked in which the function gets the mutated code
and those tests run that enter it, the quickest first, up to the first that fails. What is no function's code
(a table, the default of a field) is left to whoever compiles the whole module anew.
"""

import contextlib
import gc
import importlib
import inspect
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

import hypothesis
import pytest
from hypothesis import Phase
from tests.mutation.operators import Mutant

#: Starts the process of a mutant; its number.
Started = Callable[[], int]


class OneProfile:
    """Lets hypothesis draw the same examples each time, and not make small what failed."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> None:
        """After the conftests, which choose a profile too, and before the modules of tests."""
        quick = hypothesis.settings(
            derandomize=True, database=None, deadline=None, phases=(Phase.explicit, Phase.generate)
        )
        hypothesis.settings.register_profile("mutation", quick)
        hypothesis.settings.load_profile("mutation")


def function_of(module: ModuleType, where: str) -> FunctionType | None:
    """The loaded function in which the place `module:Class.method.inner` stands, the outermost one."""
    found: Any = module
    for name in where.partition(":")[2].split("."):
        if not name or name not in vars(found):
            return None
        found = vars(found)[name]
        if isinstance(found, property):
            found = found.fget
        if isinstance(found, staticmethod | classmethod):
            found = found.__func__
        found = inspect.unwrap(found) if callable(found) and not isinstance(found, type) else found
        if isinstance(found, FunctionType):
            return found
        if not isinstance(found, type):
            return None
    return None


def _codes(code: CodeType) -> Iterator[CodeType]:
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield inner
            yield from _codes(inner)


def plant(function: FunctionType, code: CodeType) -> bool:
    """Give the function what the module's new `code` says of it. False if that is what it has already."""
    name = function.__code__.co_qualname
    fresh = [one for one in _codes(code) if one.co_qualname == name]
    if len(fresh) != 1 or fresh[0] == function.__code__:
        return False
    try:
        function.__code__ = fresh[0]
    except ValueError:  # it closes over something else now
        return False
    return True


class Nursery:
    """A pytest plugin that runs no tests itself: it forks a process for each of `planted`.

    `run` starts and awaits them: it is given, for each mutant, how to start it and the seconds of its tests
    over the sound code.
    """

    def __init__(
        self,
        planted: Sequence[tuple[str, Mutant]],
        source_of: Callable[[str], Path],
        run: Callable[[Sequence[tuple[Mutant, Started, float]]], None],
    ) -> None:
        self._planted = planted
        self._source_of = source_of
        self._run = run
        self._session: pytest.Session | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self._session = session
        entered, seconds = self._profile(session)
        work = []
        for name, mutant in self._planted:
            module = importlib.import_module(name)
            function = function_of(module, mutant.where)
            if function is None:
                continue
            place = f"{self._source_of(name)} {function.__code__.co_qualname}"
            items = [item for item in session.items if place in entered.get(item.nodeid, ())]
            with mutant.planted() as tree:
                code = compile(tree, function.__code__.co_filename, "exec")
            before = function.__code__
            fits = plant(function, code)
            function.__code__ = before
            if not items or not fits:
                continue
            items.sort(key=lambda item: seconds[item.nodeid])
            work.append((mutant, self._starter(function, code, items), sum(seconds[i.nodeid] for i in items)))
        gc.collect()
        gc.freeze()  # so that no child touches what it shares
        self._run(work)
        return True

    def _profile(self, session: pytest.Session) -> tuple[dict[str, list[str]], dict[str, float]]:
        """Which functions each test enters over the sound code, and how many seconds it takes."""
        files = {str(self._source_of(name)) for name, _ in self._planted}
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            result = 1
            with contextlib.suppress(BaseException), os.fdopen(writer, "w") as out:
                found = {item.nodeid: _watched(session, item, files) for item in session.items}
                json.dump(found, out)
                result = 1 if session.testsfailed else 0
            os._exit(result)
        os.close(writer)
        with os.fdopen(reader) as told:
            text = told.read()
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0:
            raise SystemExit("the sound code fails already")
        found = json.loads(text)
        return {test: facts[0] for test, facts in found.items()}, {t: facts[1] for t, facts in found.items()}

    def _starter(self, function: FunctionType, code: CodeType, items: list[pytest.Item]) -> Started:
        session = self._session

        def start() -> int:
            pid = os.fork()
            if pid == 0:
                result = 70
                with contextlib.suppress(BaseException):
                    plant(function, code)
                    result = 0 if session is not None and _pass(session, items) else 1
                os._exit(result)
            return pid

        return start


def _pass(session: pytest.Session, items: Sequence[pytest.Item]) -> bool:
    """Run these tests up to the first that fails."""
    for item, following in zip(items, [*items[1:], None], strict=True):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed:
            return False
    return True


def _watched(session: pytest.Session, item: pytest.Item, files: set[str]) -> tuple[list[str], float]:
    entered: set[CodeType] = set()

    def called(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            entered.add(frame.f_code)

    since = time.process_time()
    sys.setprofile(called)
    try:
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
    finally:
        sys.setprofile(None)
    names = sorted(f"{code.co_filename} {code.co_qualname}" for code in entered if code.co_filename in files)
    return names, time.process_time() - since
