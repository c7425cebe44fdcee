"""Events: names, severities and the CloudEvents 1.0.2 structured form (section 3.1).

Standard library only.
"""

from enum import StrEnum
from typing import Any

from fleetfoot_protocol.codes import Code, Severity, info

PREFIX = "dev.fleetfoot."
MAX_LISTED_DEVICES = 100


class Event(StrEnum):
    """The `type` of an event, without the prefix."""

    UPGRADE_STARTED = "upgrade_started"
    UPGRADE_DOWNLOADED = "upgrade_downloaded"
    UPGRADE_VERIFIED = "upgrade_verified"
    UPGRADE_STAGED = "upgrade_staged"
    UPGRADE_ACTIVATED = "upgrade_activated"
    UPGRADE_HEALTH_CHECK = "upgrade_health_check"
    UPGRADE_COMPLETED = "upgrade_completed"
    UPGRADE_ROLLED_BACK = "upgrade_rolled_back"
    UPGRADE_DEFERRED = "upgrade_deferred"
    UPGRADE_REJECTED = "upgrade_rejected"
    UPGRADE_DOWNLOAD_FAILED = "upgrade_download_failed"
    UPGRADE_VERIFY_FAILED = "upgrade_verify_failed"
    UPGRADE_INSTALL_FAILED = "upgrade_install_failed"
    UPGRADE_HEALTHCHECK_FAILED = "upgrade_healthcheck_failed"
    UPGRADE_ROLLBACK_FAILED = "upgrade_rollback_failed"
    ALARM = "alarm"
    ROLLOUT_PLANNED = "rollout_planned"
    ROLLOUT_APPROVED = "rollout_approved"
    ROLLOUT_STARTED = "rollout_started"
    BATCH_STARTED = "batch_started"
    INSTANCE_STARTED = "instance_started"
    INSTANCE_HEALTH_CHECK = "instance_health_check"
    BATCH_COMPLETED = "batch_completed"
    CIRCUIT_BREAKER_TRIPPED = "circuit_breaker_tripped"
    ROLLOUT_PAUSED = "rollout_paused"
    ROLLOUT_RESUMED = "rollout_resumed"
    ROLLOUT_DECIDED = "rollout_decided"
    ROLLOUT_COMPLETED = "rollout_completed"
    ROLLOUT_CANCELED = "rollout_canceled"
    ROLLOUT_EXPIRED = "rollout_expired"


_DEFAULT_SEVERITY: dict[Event, Severity] = {
    Event.UPGRADE_ROLLED_BACK: Severity.CRITICAL,
    Event.ALARM: Severity.ERROR,
    Event.CIRCUIT_BREAKER_TRIPPED: Severity.CRITICAL,
    Event.UPGRADE_ROLLBACK_FAILED: Severity.CRITICAL,
    Event.UPGRADE_REJECTED: Severity.WARNING,
}


def severity_of(event: Event, code: Code | None) -> Severity:
    """The severity of an event: its code's, else the event's own, else info."""
    if code is not None:
        return info(code).severity
    return _DEFAULT_SEVERITY.get(event, Severity.INFO)


def cloud_event(
    event: Event,
    *,
    source: str,
    event_id: str,
    time: str,
    data: dict[str, Any],
    component: str | None = None,
    rollout: str | None = None,
    code: Code | None = None,
) -> dict[str, Any]:
    """One event in CloudEvents structured form.

    Where it failed: `errorcode`; in the data `error_code`, the cause (`message` or `reason`) and `remedy`.
    """
    body = dict(data)
    attributes: dict[str, Any] = {
        "specversion": "1.0",
        "id": event_id,
        "source": source,
        "type": PREFIX + event,
        "time": time,
        "datacontenttype": "application/json",
        "category": "upgrade",
        "severity": str(severity_of(event, code)),
    }
    if component is not None:
        attributes["component"] = component
    if rollout is not None:
        attributes["rollout"] = rollout
    if code is not None:
        attributes["errorcode"] = str(code)
        body["error_code"] = str(code)
        body.setdefault("remedy", info(code).remedy)
        if not body.get("message") and not body.get("reason"):
            body["message"] = info(code).meaning
    return {**attributes, "data": body}
