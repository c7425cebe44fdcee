"""The spool between courier and worker: folders, files and their two sides (contract section 6).

in/ is written by the courier alone (`CourierSide`), out/ by the worker alone (`WorkerSide`); each reads the
other's folder and believes nothing that is not of the form. Standard library only.
"""

from fleetfoot_agent.spool.courier_side import CourierSide, OutMarks
from fleetfoot_agent.spool.forms import BlobState, BlobWant, Link, ManifestWant, WakeAt, Want, is_slot
from fleetfoot_agent.spool.waking import take_wake, wake, wake_pending
from fleetfoot_agent.spool.worker_side import SpooledMessage, WorkerSide

__all__ = [
    "BlobState",
    "BlobWant",
    "CourierSide",
    "Link",
    "ManifestWant",
    "OutMarks",
    "SpooledMessage",
    "WakeAt",
    "Want",
    "WorkerSide",
    "is_slot",
    "take_wake",
    "wake",
    "wake_pending",
]
