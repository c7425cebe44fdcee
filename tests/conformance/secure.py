"""A town whose parts connect by TLS, each with a certificate of its role."""

import signal
import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from tests.brokers.mosquitto import Identity
from tests.end_to_end.town import Town, Witness

from fleetfoot_client.broker.rights import Role
from fleetfoot_manager.pki.folder import Pki
from fleetfoot_sim.devices import HostedDevice, ProcessDevice
from fleetfoot_sim.scene import OPERATOR
from fleetfoot_sim.tally import Tally


class Secure(Protocol):
    """A broker that knows everybody by a certificate of `pki`."""

    pki: Pki

    def issue(self, role: Role, name: str) -> Identity: ...

    def start(self, **environ: str) -> str: ...

    def end(self, number: signal.Signals) -> None: ...

    def empty(self) -> None: ...


def context_of(who: Identity) -> ssl.SSLContext:
    """TLS with this certificate."""
    context = ssl.create_default_context(cafile=str(who.ca))
    context.load_cert_chain(who.cert, who.key)
    return context


class SecureTown(Town):
    """Its broker runs already, and is ended by whoever started it."""

    def __init__(self, folder: Path, broker: Secure) -> None:
        super().__init__(folder)
        self.secure = broker
        manager = broker.issue(Role.MANAGER, "manager")
        at = self.manager.command.index("--listen")
        self.manager.command[at : at + 2] = ["--broker", manager.url, "--broker-ca", str(manager.ca)]
        self.manager.command += ["--broker-cert", str(manager.cert), "--broker-key", str(manager.key)]
        self.manager.command += ["--pki", str(broker.pki.folder)]
        self.manager.command += ["--device-broker", broker.issue(Role.DEVICE, "anybody").url]
        self.operator = broker.issue(Role.OPERATOR, OPERATOR)

    def open(self, *options: str) -> None:
        super().open(*options)
        self.profile()

    def profile(self) -> None:
        """Set up the operator's profile, as docs/brokers.md shows."""
        who = self.operator
        words = ["profile", "set", "kitchens", "--broker", who.url, "--operator", OPERATOR]
        words += ["--key", str(self.scene.operator_key), "--root", str(self.scene.root)]
        words += ["--ca-file", str(who.ca), "--cert-file", str(who.cert), "--cert-key-file", str(who.key)]
        self.fleetfoot(*words)

    def environ(self) -> dict[str, str]:
        return {"FLEETFOOT_CONFIG_DIR": str(self.folder / "profile")}

    def _watch(self, tally: Tally) -> Witness:
        who = self.secure.issue(Role.MANAGER, "manager")
        return Witness("127.0.0.1", who.port, self.root, tally, context_of(who))

    def _boot(self, device: HostedDevice | ProcessDevice) -> None:
        assert isinstance(device, HostedDevice)
        who = self.secure.issue(Role.DEVICE, device.device.config.device)
        device.device = replace(device.device, config=_secured(device.device.config, who))
        super()._boot(device)


def _secured(config: Any, who: Identity) -> Any:
    broker = replace(
        config.broker, port=who.port, tls=True, ca_file=who.ca, cert_file=who.cert, key_file=who.key
    )
    return replace(config, broker=broker)
