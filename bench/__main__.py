"""`python -m bench [NAME...]`: run benchmarks, and with --write put what they found into docs/benchmarks.md.

Each benchmark is a process of its own with a limit of time, and the page is written anew after each: one that
fails or hangs loses no other, and stands on the page with its reason. What is not run keeps its place there.
"""

import argparse
import importlib
import inspect
import os
import pkgutil
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import bench
from bench.common import HEADER, ROOT, Figure, machine
from bench.setting import BROKERS, STORES, Setting, lacking
from fleetfoot_sim import tied

PAGE = ROOT / "docs" / "benchmarks.md"
_NOT = {"common", "house", "install_one", "install_peers", "setting", "__main__"}
#: One that takes longer is ended. The longest takes half of it on a quiet machine.
LIMIT_SECONDS = 1200.0
#: What ends it in order, beside Ctrl-C.
_ENDS = (signal.SIGTERM, signal.SIGHUP)
_TOP = """\
# Benchmarks

Written by `make bench`; do not change it here. Each figure stands beside a limit that was measured in the
same run on the same machine, and their ratio: that is what counts. Absolute values are those of one machine
on one day, and of what else it had to do: each section says that.
"""
_SECTION = re.compile(r"^## (.+)$", re.MULTILINE)


def names() -> list[str]:
    """Every benchmark."""
    found = (one.name for one in pkgutil.iter_modules(bench.__path__))
    return sorted(name for name in found if name not in _NOT and _has_figures(name))


def _has_figures(name: str) -> bool:
    """Whether it belongs to this frame; what has a page of its own is started by its own command."""
    return "\ndef figures(" in (ROOT / "bench" / f"{name}.py").read_text(encoding="utf-8")


def takes_setting(name: str) -> bool:
    """Whether it runs on other brokers and stores, and with other sizes."""
    module = importlib.import_module(f"bench.{name}")
    return "setting" in inspect.signature(module.figures).parameters


def run(name: str, setting: Setting, *, quick: bool) -> tuple[str, list[Figure]]:
    """The first paragraph of a module's docstring, and its figures."""
    module = importlib.import_module(f"bench.{name}")
    about = " ".join((module.__doc__ or "").strip().split("\n\n")[0].split())
    found: list[Figure] = module.figures(quick, setting) if takes_setting(name) else module.figures(quick)
    return about, found


def section(
    name: str, about: str, found: list[Figure], seconds: float, *, options: str = "", where: str = ""
) -> str:
    """One section of the page."""
    rows = [one.row() for one in found]
    missed = [one for one in found if one.met is False]
    lines = [
        f"## {title(name, options)}",
        "",
        about,
        "",
        f"`python -m bench {name}{options}`, {seconds:.0f} s.",
    ]
    lines += [where] if where else []
    lines += ["", *HEADER, *rows, ""]
    lines += [f"Missed: {one.what}, {one.ratio:.2f}. {one.note}".rstrip() for one in missed]
    return "\n".join(lines) + ("\n" if missed else "")


def title(name: str, options: str) -> str:
    """What a section is called: one benchmark has one for each setting."""
    return f"{name}{options}"


def merged(page: str, part: str) -> str:
    """The page with this section in the place of the one of the same title, or at its end."""
    sections = _split(page)
    sections.update(_split(part))
    return _TOP + "".join("\n" + sections[key].strip() + "\n" for key in sorted(sections))


def _split(page: str) -> dict[str, str]:
    found = list(_SECTION.finditer(page))
    ends = [*(one.start() for one in found[1:]), len(page)]
    return {one[1]: page[one.start() : end] for one, end in zip(found, ends, strict=False)}


def _version() -> str:
    """The commit that is measured; empty without git."""
    words = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


def where() -> str:
    """Machine, load and version, in one line."""
    version = _version()
    return f"Machine: {machine()}." + (f" Version: {version}." if version else "")


def _one(name: str, setting: Setting, options: str, out: Path, *, quick: bool) -> int:
    """Run one benchmark here, and leave its section in the file."""
    place, began = where(), time.monotonic()
    about, found = run(name, setting, quick=quick)
    part = section(name, about, found, time.monotonic() - began, options=options, where=place)
    out.write_text(part, encoding="utf-8")
    return 0


def _apart(name: str, options: str, limit: float) -> tuple[str, str]:
    """Run one as a process of its own, in a folder for temporary files: its section, and what went wrong."""
    with tempfile.TemporaryDirectory(prefix="fleetfoot-bench-", ignore_cleanup_errors=True) as text:
        Path(text).chmod(0o711)  # servers that will not run as root have their folders in it
        out = Path(text) / "section.md"
        command = [sys.executable, "-m", "bench", name, *options.split(), "--section", str(out)]
        environ = {**os.environ, "TMPDIR": text}
        # Tied, since a signal may end us before we know whom we have started.
        process = subprocess.Popen(
            command, cwd=ROOT, env=environ, start_new_session=True, preexec_fn=tied.to_me()
        )
        try:
            status = process.wait(limit)
            wrong = "" if status == 0 else f"it ended with {status}"
        except subprocess.TimeoutExpired:
            wrong = f"it had not ended after {limit:.0f} s"
        finally:
            _end_group(process)
        return (out.read_text(encoding="utf-8") if out.exists() else ""), wrong


def _leave(number: int, _frame: object) -> None:
    """End as after Ctrl-C, so that everything that was started ends too; once, however often it is asked."""
    for one in _ENDS:
        signal.signal(one, signal.SIG_IGN)
    raise SystemExit(128 + number)


def _end_group(process: "subprocess.Popen[bytes]") -> None:
    """End it with all that it has started: first in order, so that it takes its servers along."""
    for number, patience in ((signal.SIGINT, 40.0), (signal.SIGKILL, 10.0)):
        if process.poll() is not None and number is signal.SIGINT:
            continue
        try:
            os.killpg(process.pid, number)
            process.wait(patience)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def _failed(name: str, options: str, wrong: str) -> str:
    return f"## {title(name, options)}\n\n`python -m bench {name}{options}`: **failed**, {wrong}. {where()}\n"


def _fresh(page: str, name: str, options: str) -> bool:
    """Whether the page has it already, of this very version."""
    part = _split(page).get(title(name, options), "")
    version = _version()
    return bool(version) and f"Version: {version}." in part and "**failed**" not in part


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help=f"of {', '.join(names())}")
    add("--broker", choices=BROKERS, default="mosquitto", help="(default: mosquitto; nats: three nodes)")
    add("--store", choices=STORES, default="sqlite", help="of the manager (default: sqlite)")
    add("--devices", type=int, default=0, metavar="N", help="how many, instead of its own number")
    add("--quick", action="store_true", help="small sizes: whether it works, not how fast")
    add("--write", action="store_true", help="write docs/benchmarks.md")
    add("--resume", action="store_true", help="with --write: not what the page has of this version already")
    add("--limit", type=float, default=LIMIT_SECONDS, metavar="S", help="for each (default: %(default)g)")
    add("--section", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    unknown = set(args.names) - set(names())
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    if args.devices < 0:
        parser.error("--devices must be at least 1")
    setting = Setting(args.broker, args.store, args.devices)
    if setting != Setting():
        able = [name for name in names() if takes_setting(name)]
        args.names = args.names or able
        if foreign := sorted(set(args.names) - set(able)):
            parser.error(
                f"--broker, --store and --devices are for {', '.join(able)}, not {', '.join(foreign)}"
            )
        if lack := lacking(setting):
            parser.error(lack)
    args.setting = setting
    return args


def main(argv: list[str] | None = None) -> int:
    args = _arguments(argv)
    options = args.setting.options() + (" --quick" if args.quick else "")
    if args.section:
        return _one(args.names[0], args.setting, options, args.section, quick=args.quick)
    status = 0
    for name in args.names or names():
        page = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
        if args.resume and args.write and _fresh(page, name, options):
            print(f"{title(name, options)}: the page has it", flush=True)
            continue
        part, wrong = _apart(name, options, args.limit)
        if wrong:
            status, part = 1, _failed(name, options, wrong)
        print(part, flush=True)
        if args.write:
            PAGE.write_text(merged(page, part), encoding="utf-8")
    return status


if __name__ == "__main__":
    for _signal in _ENDS:
        signal.signal(_signal, _leave)
    sys.exit(main())
