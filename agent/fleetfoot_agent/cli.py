"""The `fleetfoot-agent` command. Imports only what the command at hand needs: the courier stays small."""

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from fleetfoot_agent import arguments
from fleetfoot_agent.config import DEFAULT_CONFIG, AgentConfig, load
from fleetfoot_protocol.codes import TABLE, Code, Family
from fleetfoot_protocol.errors import FleetfootError

#: Exit statuses: the same as the `fleetfoot` command's.
OK, FAILED, USAGE, TRUST = 0, 1, 2, 5

#: Commands that stay and tell what they do; the others answer a person, who wants the answer alone.
_RESIDENT = frozenset({"run", "courier", "worker", "supervise"})


#: Priorities of the journal, sd-daemon(3).
_PRIORITIES = {"CRITICAL": 2, "ERROR": 3, "WARNING": 4, "INFO": 6, "DEBUG": 7}


class _ForJournal(logging.Formatter):
    """Lines as the journal wants them: their priority in front, and no time, which it knows itself."""

    def format(self, record: logging.LogRecord) -> str:
        first, *more = super().format(record).splitlines()
        mark = f"<{_PRIORITIES.get(record.levelname, 5)}>"
        return "\n".join(mark + line for line in (first, *more))


def _logging(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    if "JOURNAL_STREAM" in os.environ:
        handler.setFormatter(_ForJournal("%(name)s %(message)s"))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])


def _dispatch(args: argparse.Namespace) -> int:
    if args.command in _WITHOUT_CONFIG:
        return _WITHOUT_CONFIG[args.command](args)
    config = load(args.config or DEFAULT_CONFIG, args.set)
    if args.command in _AS_WORKER:
        from fleetfoot_agent.adopt.user import become_worker

        _hold_bundle(args)
        become_worker(config)
    return _HANDLERS[args.command](config, args)


def _hold_bundle(args: argparse.Namespace) -> None:
    """Open the folder that is named before this process becomes a user who may not walk there."""
    from fleetfoot_agent.bundle import Bundle

    if args.command == "install":
        args.bundle = Bundle.of(args.bundle)
    elif args.command == "check":
        named = Path(args.release or "")
        args.bundle = Bundle.of(named) if args.release and named.is_dir() else None


def _init(args: argparse.Namespace) -> int:
    from fleetfoot_agent.setup import init

    return init(args)


def _enroll(args: argparse.Namespace) -> int:
    from fleetfoot_agent.enrol.command import enroll

    return enroll(args)


def _config(config: AgentConfig, args: argparse.Namespace) -> int:
    from fleetfoot_agent.show import show

    return show(config, origin=args.origin, as_json=args.json)


def _courier(config: AgentConfig, args: argparse.Namespace) -> int:
    from fleetfoot_agent.courier.main import run

    return run(config, child_mode=args.command == "run")


def _worker(config: AgentConfig, args: argparse.Namespace) -> int:
    from fleetfoot_agent.worker.run import Worker

    return Worker(config).run()


def _supervise(config: AgentConfig, args: argparse.Namespace) -> int:
    from fleetfoot_agent.supervise import run_forever

    return run_forever(config)


def _adopt(config: AgentConfig, args: argparse.Namespace) -> int:
    from fleetfoot_agent.adopt.command import adopt

    return adopt(config, args.unit, args.component, undo=args.undo)


def _doctor(config: AgentConfig, args: argparse.Namespace) -> int:
    from fleetfoot_agent.doctor.command import doctor

    return doctor(config, args)


def _install(config: AgentConfig, args: argparse.Namespace) -> int:
    from fleetfoot_agent.worker.by_hand import install

    return install(config, args.bundle)


def _rollback(config: AgentConfig, args: argparse.Namespace) -> int:
    from fleetfoot_agent.worker.undoing import rollback

    return rollback(config, args.component)


def _remove(config: AgentConfig, args: argparse.Namespace) -> int:
    from fleetfoot_agent.worker.undoing import remove

    if not args.yes:
        raise FleetfootError(
            "usage",
            f"this takes every version of {args.component} off the device",
            remedy="say so with --yes",
        )
    return remove(config, args.component)


def _check(config: AgentConfig, args: argparse.Namespace) -> int:
    from fleetfoot_agent.worker.foresight import check

    return check(config, args.release, args.bundle, args.json)


def _consent(config: AgentConfig, args: argparse.Namespace) -> int:
    from fleetfoot_agent.worker.foresight import consent

    return consent(config, args.component, args.answer)


def _status(config: AgentConfig, args: argparse.Namespace) -> int:
    from fleetfoot_agent.worker.inspection import status

    return status(config, args.json)


def _verify(config: AgentConfig, args: argparse.Namespace) -> int:
    from fleetfoot_agent.worker.inspection import verify

    return verify(config, args.json)


#: Commands that make the configuration.
_WITHOUT_CONFIG: dict[str, Callable[[argparse.Namespace], int]] = {"init": _init, "enroll": _enroll}
#: Commands that act for the worker, as its user.
_AS_WORKER = frozenset({"worker", "install", "rollback", "remove", "check", "consent", "verify"})
_HANDLERS: dict[str, Callable[[AgentConfig, argparse.Namespace], int]] = {
    "config": _config,
    "run": _courier,
    "courier": _courier,
    "worker": _worker,
    "supervise": _supervise,
    "adopt": _adopt,
    "doctor": _doctor,
    "install": _install,
    "rollback": _rollback,
    "remove": _remove,
    "check": _check,
    "consent": _consent,
    "status": _status,
    "verify": _verify,
}


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns the exit status; errors go to stderr with what to do next."""
    words = list(sys.argv[1:] if argv is None else argv)
    _fill_closed_streams()
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # What is still buffered goes nowhere, or the interpreter would complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _fill_closed_streams() -> None:
    """Lead streams that were closed nowhere: the next file that is opened must not take their place."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115


def _run(words: list[str]) -> int:
    try:
        parser = arguments.parser()
        args = parser.parse_args(words)
        if args.command is None:
            parser.print_help(sys.stderr)
            return USAGE
        _logging(args.log_level or ("info" if args.command in _RESIDENT else "warning"))
        return _dispatch(args)
    except FleetfootError as error:
        problem = error
    except EOFError:
        problem = FleetfootError("usage", "the input ended before the question was answered")
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        problem = FleetfootError("io_error", f"{where}{error.strerror or error}")
    return fail(problem, as_json="--json" in words)


def fail(error: FleetfootError, *, as_json: bool) -> int:
    """Tell an error to a person or a program; returns the exit status."""
    if as_json:
        print(json.dumps({"error": {"code": error.code, "message": error.message, "remedy": error.remedy}}))
    else:
        print(f"error: {_literal(error.message)}", file=sys.stderr)
        print(f"code: {_literal(error.code)}", file=sys.stderr)
        print(f"what to do: {_literal(error.remedy)}", file=sys.stderr)
    return _STATUSES.get(error.code, FAILED)


_STATUSES: dict[str, int] = {
    "usage": USAGE,
    "config_invalid": USAGE,
    Code.UPGRADE_LENGTH_MISMATCH: TRUST,
    Code.UPGRADE_CHECKSUM_MISMATCH: TRUST,
    **{code: TRUST for code, about in TABLE.items() if about.family is Family.TRUST},
}


def _literal(text: str) -> str:
    """Text with what cannot be seen written out: part of it may come from elsewhere."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
