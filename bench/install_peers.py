"""What the distribution has for the same job, each set up as its own documentation says."""

import hashlib
import os
import shutil
import subprocess
import time
from pathlib import Path


class Missing(Exception):
    """A peer that is not here, or that does not run here: a hole with its name in the table."""


class Peer:
    """One peer. `prepare` once, `install` as often as wanted: seconds of one installation."""

    name = ""
    package = ""
    how = ""
    programs: tuple[str, ...] = ()

    def __init__(self, folder: Path, blob: Path, form: str) -> None:
        self.folder = folder
        self.blob = blob
        self.form = form

    def prepare(self) -> None:
        """Make keys and the signed file. Raises `Missing`."""
        absent = [program for program in self.programs if shutil.which(program) is None]
        if absent:
            raise Missing(f"{', '.join(absent)}: apt-get install {self.package}")
        if os.geteuid() != 0:
            raise Missing("run it as root")
        self.folder.mkdir()
        self.artifact = self.folder / f"v2.{self.form}"
        shutil.copyfile(self.blob, self.artifact)
        try:
            self._prepare()
        except subprocess.CalledProcessError as error:
            raise Missing(f"{error.cmd[0]}: {(error.stderr or error.stdout or '')[-200:]!r}") from error

    def _prepare(self) -> None:
        raise NotImplementedError

    def install(self) -> float:
        """Install once; afterwards everything is as before."""
        raise NotImplementedError

    def version(self) -> str:
        """Of the package."""
        query = ["dpkg-query", "-W", "-f", "${Version}", self.package]
        return self.run(*query).partition("+")[0].partition("-")[0]

    def close(self) -> None:
        """Give back what is not in the folder."""

    def run(self, *command: str, text: str | None = None) -> str:
        """A command in the folder; raises `CalledProcessError`."""
        done = subprocess.run(
            command, cwd=self.folder, check=True, capture_output=True, text=True, input=text, timeout=600
        )
        return done.stdout

    def certificate(self) -> None:
        """A key and a certificate that signs code, made here."""
        request = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            "key.pem",
            "-days",
            "30",
        ]
        usage = ["-addext", "extendedKeyUsage=emailProtection,codeSigning"]
        self.run(*request, "-out", "cert.pem", "-subj", "/CN=bench", *usage)

    def timed(self, *command: str) -> float:
        """Seconds of a command; RuntimeError with what it said if it fails."""
        began = time.perf_counter()
        try:
            self.run(*command)
        except subprocess.CalledProcessError as error:
            raise RuntimeError(f"{self.name}: {(error.stdout + error.stderr)[-800:]}") from error
        return time.perf_counter() - began


class Swupdate(Peer):
    """swupdate with its archive handler and a CMS signature."""

    name = package = "swupdate"
    how = "archive handler, CMS; without a switch"
    programs = ("swupdate", "cpio", "openssl")

    def _prepare(self) -> None:
        self.certificate()
        digest = hashlib.sha256(self.artifact.read_bytes()).hexdigest()
        target = self.folder / "target"
        (self.folder / "sw-description").write_text(
            'software = {\n version = "2.0";\n hardware-compatibility: [ "1.0" ];\n files: (\n'
            f'  {{ filename = "{self.artifact.name}"; type = "archive"; path = "{target}";\n'
            f'    sha256 = "{digest}"; }}\n );\n}}\n'
        )
        sign = ["openssl", "cms", "-sign", "-in", "sw-description", "-out", "sw-description.sig", "-signer"]
        self.run(*sign, "cert.pem", "-inkey", "key.pem", "-outform", "DER", "-nosmimecap", "-binary")
        names = f"sw-description\nsw-description.sig\n{self.artifact.name}\n"
        (self.folder / "names").write_text(names)
        self.run("sh", "-c", "cpio -o -H crc <names >v2.swu")
        self.install()

    def install(self) -> float:
        target = self.folder / "target"
        target.mkdir()
        took = self.timed("swupdate", "-H", "lab:1.0", "-k", "cert.pem", "-i", "v2.swu")
        if not (target / "bin" / "app").exists():
            raise Missing("it said that it succeeded, and nothing was unpacked")
        shutil.rmtree(target)
        return took


class Rauc(Peer):
    """RAUC as a service on a bus of its own, into an ext4 slot on a loop device."""

    name = package = "rauc"
    how = "mkfs and untar into an ext4 slot; the service runs already"
    programs = ("rauc", "dbus-run-session", "mkfs.ext4", "losetup", "mksquashfs")

    def _prepare(self) -> None:
        self.certificate()
        image = self.folder / "slot.img"
        with image.open("wb") as file:
            file.truncate(400 << 20)
        self.loop = self.run("losetup", "-f", "--show", str(image)).strip()
        (self.folder / "system.conf").write_text(
            f"[system]\ncompatible=bench\nbootloader=noop\nmountprefix={self.folder}/mnt\n"
            f"statusfile={self.folder}/status\nbundle-formats=plain\n[keyring]\npath={self.folder}/cert.pem\n"
            f"[slot.rootfs.0]\ndevice=/dev/null\ntype=raw\nbootname=A\n"
            f"[slot.app.0]\ndevice={self.loop}\ntype=ext4\n"
        )
        bundle = self.folder / "bundle"
        bundle.mkdir()
        self.artifact.rename(bundle / self.artifact.name)
        (bundle / "manifest.raucm").write_text(
            f"[update]\ncompatible=bench\nversion=2\n[bundle]\nformat=plain\n[image.app]\nfilename={self.artifact.name}\n"
        )
        self.run("rauc", "--cert", "cert.pem", "--key", "key.pem", "bundle", "bundle", "v2.raucb")
        (self.folder / "go.sh").write_text(
            "export DBUS_STARTER_BUS_TYPE=session\n"
            "rauc -c system.conf --override-boot-slot=A service >service.log 2>&1 & service=$!\n"
            "for _ in $(seq 200); do rauc status >/dev/null 2>&1 && break; sleep 0.05; done\n"
            "began=$(date +%s%N)\nrauc install v2.raucb >install.log 2>&1; rc=$?\nended=$(date +%s%N)\n"
            "kill $service; wait $service\n"
            "if [ $rc != 0 ]; then cat install.log service.log; exit $rc; fi\n"
            'echo "took $((ended - began))"\n'
        )
        self.install()

    def install(self) -> float:
        try:
            told = self.run("dbus-run-session", "--", "bash", "go.sh")
        except subprocess.CalledProcessError as error:
            raise Missing(f"it does not run here: {(error.stdout + error.stderr)[-300:]!r}") from error
        return int(told.split("took ")[1].split()[0]) / 1e9

    def close(self) -> None:
        if loop := getattr(self, "loop", ""):
            subprocess.run(["losetup", "-d", loop], check=False)


class Mender(Peer):
    """mender-client, standalone, with an update module that untars."""

    name = "mender"
    package = "mender-client"
    how = "standalone, an update module that untars; with commit"
    programs = ("mender", "mender-artifact", "openssl", "unshare")

    def _prepare(self) -> None:
        if self.form == "tar.zst" and shutil.which("zstd") is None:
            raise Missing("zstd: apt-get install zstd")
        self.run("openssl", "genrsa", "-traditional", "-out", "key.pem", "2048")
        self.run("openssl", "rsa", "-in", "key.pem", "-pubout", "-out", "public.pem")
        modules, conf, data = (self.folder / name for name in ("modules", "conf", "data"))
        for folder in (modules, conf, data):
            folder.mkdir()
        unpack = "tar -xzf" if self.form == "tar.gz" else "tar --zstd -xf"
        module = modules / "tar-app"
        module.write_text(
            f'#!/bin/sh\nset -e\ncase "$1" in\nArtifactInstall) mkdir {self.folder}/target; '
            f'{unpack} "$2"/files/* -C {self.folder}/target; sync -f {self.folder}/target;;\n'
            "SupportsRollback) echo Yes;;\nNeedsArtifactReboot) echo No;;\nesac\n"
        )
        module.chmod(0o755)
        (conf / "artifact_info").write_text("artifact_name=v1\n")
        (conf / "mender.conf").write_text(
            f'{{"ArtifactVerifyKey": "{self.folder}/public.pem", "DeviceTypeFile": "{data}/device_type"}}\n'
        )
        (data / "device_type").write_text("device_type=bench\n")
        write = ["mender-artifact", "write", "module-image", "-T", "tar-app", "-n", "v2", "-t", "bench"]
        self.run(
            *write, "-o", "v2.mender", "-f", self.artifact.name, "-k", "key.pem", "--compression", "none"
        )
        inside = (
            f"mount --bind {modules} /usr/share/mender/modules/v3; mount --bind {conf} /etc/mender; "
            f"mender --no-syslog --data {data} install {self.folder}/v2.mender; "
            f"mender --no-syslog --data {data} commit"
        )
        self.command = ("unshare", "--mount", "bash", "-ec", inside)
        try:
            self.install()
        except RuntimeError as error:
            raise Missing(f"it does not run here: {str(error)[-300:]!r}") from error

    def install(self) -> float:
        took = self.timed(*self.command)
        shutil.rmtree(self.folder / "target")
        return took


PEERS: tuple[type[Peer], ...] = (Swupdate, Rauc, Mender)
