"""`python -m bench [--quick] [--write] [NAME...]`: run benchmarks and write docs/benchmarks.md."""

import argparse
import importlib
import pkgutil
import sys
import time
from collections.abc import Callable

import bench
from bench.common import HEADER, ROOT, Figure, machine

PAGE = ROOT / "docs" / "benchmarks.md"
_NOT = {"common", "house", "install_one", "install_peers", "__main__"}
_TOP = """\
# Benchmarks

Written by `make bench`; do not change it here. Each figure stands beside a limit that was measured in the
same run on the same machine, and their ratio: that is what counts. Absolute values are those of one machine
on one day.

"""


def names() -> list[str]:
    """Every benchmark."""
    found = (one.name for one in pkgutil.iter_modules(bench.__path__))
    return sorted(name for name in found if name not in _NOT and _has_figures(name))


def _has_figures(name: str) -> bool:
    """Whether it belongs to this frame; what has a page of its own is started by its own command."""
    return "\ndef figures(" in (ROOT / "bench" / f"{name}.py").read_text(encoding="utf-8")


def run(name: str, *, quick: bool) -> tuple[str, list[Figure]]:
    """The first paragraph of a module's docstring, and its figures."""
    module = importlib.import_module(f"bench.{name}")
    figures: Callable[[bool], list[Figure]] = module.figures
    about = " ".join((module.__doc__ or "").strip().split("\n\n")[0].split())
    return about, figures(quick)


def section(name: str, about: str, found: list[Figure], seconds: float, *, quick: bool) -> str:
    """One section of the page."""
    command = f"python -m bench {name}{' --quick' if quick else ''}"
    rows = [one.row() for one in found]
    missed = [one for one in found if one.met is False]
    lines = [f"## {name}", "", about, "", f"`{command}`, {seconds:.0f} s", "", *HEADER, *rows, ""]
    lines += [f"Missed: {one.what}, {one.ratio:.2f}. {one.note}" for one in missed]
    return "\n".join(lines) + ("\n" if missed else "")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names())}")
    parser.add_argument("--quick", action="store_true", help="small sizes: whether it works, not how fast")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    args = parser.parse_args(argv)
    unknown = set(args.names) - set(names())
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    text = _TOP + f"Machine: {machine()}.{' Sizes: quick.' if args.quick else ''}\n"
    for name in args.names or names():
        began = time.monotonic()
        about, found = run(name, quick=args.quick)
        part = section(name, about, found, time.monotonic() - began, quick=args.quick)
        print(part, flush=True)
        text += "\n" + part
    if args.write:
        PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
