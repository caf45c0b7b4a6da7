"""Certificates for a lab's etcd, made with the openssl command: one authority, and what it has signed.

Subjects hold no common name: etcd uses the CN of a client certificate as a user name, and its JSON gateway refuses
such a certificate altogether (etcd, api/v3rpc/interceptor.go and auth/store.go, AuthInfoFromTLS).
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from overlayd.core.address import Address
from overlayd.lab.namespace import need_tools
from overlayd.lab.spec import LabError

_DAYS = "30"


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its private key, as PEM files."""

    cert: Path
    key: Path

    @classmethod
    def at(cls, directory: Path, name: str) -> Certificate:
        """Where the certificate of that name is, or is to be."""
        return cls(directory / f"{name}.pem", directory / f"{name}-key.pem")


class Authority:
    """A certificate authority in a directory: `ca.pem`, and `NAME.pem` with `NAME-key.pem` for each it has signed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.own = Certificate.at(directory, "ca")

    @property
    def cafile(self) -> Path:
        """What a client trusts."""
        return self.own.cert

    def create(self) -> None:
        """Make the authority's own certificate. Raises LabError."""
        need_tools("openssl")
        self.directory.mkdir(parents=True, exist_ok=True)
        _request(self.own, "keyUsage=critical,keyCertSign,cRLSign", subject="/O=overlayd lab authority")

    def issue(self, name: str, addresses: Iterable[Address | str] = (), common_name: str = "") -> Certificate:
        """A certificate, good for client and server, that names these addresses. Raises LabError."""
        subject = "/O=overlayd lab" + (f"/CN={common_name}" if common_name else "")
        made = Certificate.at(self.directory, name)
        names = ",".join(["DNS:localhost", *(f"IP:{address}" for address in addresses)])
        _request(
            made,
            "basicConstraints=critical,CA:FALSE",
            # etcd's gateway is a client of its own server, with the server's certificate.
            "extendedKeyUsage=serverAuth,clientAuth",
            f"subjectAltName={names}",
            subject=subject,
            signer=self.own,
        )
        return made


def _request(made: Certificate, *extensions: str, subject: str, signer: Certificate | None = None) -> None:
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    argv += ["-subj", subject, "-days", _DAYS, "-out", str(made.cert), "-keyout", str(made.key)]
    for extension in extensions:
        argv += ["-addext", extension]
    if signer is not None:
        argv += ["-CA", str(signer.cert), "-CAkey", str(signer.key)]
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"openssl cannot make {made.cert}: {done.stderr.strip()[-500:]}")
