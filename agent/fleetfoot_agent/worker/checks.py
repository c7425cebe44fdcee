"""Health checks of a component: an HTTP status, a command's exit, a port that accepts, a file."""

import http.client
import os
import socket
import stat
import subprocess
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from fleetfoot_agent.components import Check
from fleetfoot_agent.hookunit import UnitHook
from fleetfoot_agent.worker.lifecycle import line
from fleetfoot_protocol.reports import MAX_CHECKS, CheckResult


def failure(check: Check) -> str | None:
    """Try the check once. None if it passed, else why not, in words."""
    return _TRIES[check.kind](check)


def try_all(checks: tuple[Check, ...]) -> tuple[CheckResult, ...]:
    """Try the checks in order, up to the first one that fails. The last `MAX_CHECKS` results are told."""
    results: list[CheckResult] = []
    for check in checks:
        why = failure(check)
        name = line(check.url or check.unit or " ".join(check.argv))
        results.append(CheckResult(check=name, healthy=why is None, message=line(why or "")))
        if why is not None:
            break
    return tuple(results[-MAX_CHECKS:])


def _http(check: Check) -> str | None:
    parts = urlsplit(check.url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=check.timeout)
    try:
        connection.request("GET", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"{check.url} does not answer: {str(error) or type(error).__name__}"
    finally:
        connection.close()
    return None if 200 <= status < 300 else f"{check.url} answers {status}"


def _tcp(check: Check) -> str | None:
    host, _, port = check.url.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), check.timeout).close()
    except OSError as error:
        return f"{check.url} does not accept: {error}"
    return None


def _file(check: Check) -> str | None:
    try:
        found = os.stat(check.url)
    except OSError as error:
        return f"{check.url}: {error.strerror}"
    if not stat.S_ISREG(found.st_mode):
        return f"{check.url} is no file"
    age = time.time() - found.st_mtime
    if check.max_age and age > check.max_age:
        return f"{check.url} is {age:.0f} s old, at most {check.max_age:g} s are allowed"
    return None


def _exec(check: Check) -> str | None:
    if check.unit is not None:
        told = {"FLEETFOOT_HOOK": "check", "FLEETFOOT_TIMEOUT": f"{check.timeout:g}"}
        return UnitHook(check.unit).run(told, check.timeout)
    try:
        done = subprocess.run(
            check.argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=check.timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"{check.argv[0]} did not end within {check.timeout:g} s"
    except OSError as error:
        return f"{check.argv[0]} cannot be run: {error}"
    return None if done.returncode == 0 else f"{check.argv[0]} exits with {done.returncode}"


_TRIES: dict[str, Callable[[Check], str | None]] = {
    "http": _http,
    "exec": _exec,
    "tcp": _tcp,
    "file": _file,
}
