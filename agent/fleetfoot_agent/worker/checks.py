"""Health checks of a component: an HTTP status, or a command's exit."""

import http.client
import subprocess
from urllib.parse import urlsplit

from fleetfoot_agent.config import Check


def failure(check: Check) -> str | None:
    """Try the check once. None if it passed, else why not, in words."""
    return _http(check) if check.kind == "http" else _exec(check)


def first_failure(checks: tuple[Check, ...]) -> str | None:
    """Try the checks in order; why the first one that fails did, or None if all passed."""
    for check in checks:
        if why := failure(check):
            return why
    return None


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


def _exec(check: Check) -> str | None:
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
