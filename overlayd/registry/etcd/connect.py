"""From settings to a client of etcd: which endpoints, which certificates, which user."""

from __future__ import annotations

import ssl

from overlayd.core.settings.model import Settings
from overlayd.registry.base import RegistryError
from overlayd.registry.etcd.client import EtcdClient
from overlayd.registry.etcd.gateway import reason_of
from overlayd.registry.etcd.messages import EtcdError


def make_client(settings: Settings) -> EtcdClient:
    """A client for these settings. Raises RegistryError when a certificate cannot be used."""
    etcd = settings.etcd
    tls = None
    if etcd.endpoints.startswith("https:"):
        try:
            tls = tls_context(etcd.cafile, etcd.certfile, etcd.keyfile)
        except EtcdError as error:
            raise RegistryError(str(error)) from None
    return EtcdClient(etcd.urls, tls, etcd.username, etcd.password)


def tls_context(cafile: str | None, certfile: str | None, keyfile: str | None) -> ssl.SSLContext:
    """What https endpoints are spoken to with. Raises EtcdError with the file that is wrong."""
    try:
        context = ssl.create_default_context(cafile=cafile)
    except (OSError, ssl.SSLError) as error:
        raise EtcdError(f"etcd.cafile: {cafile}: {reason_of(error)}; name a file of PEM certificates") from None
    if certfile is not None:
        try:
            context.load_cert_chain(certfile, keyfile)
        except (OSError, ssl.SSLError) as error:
            text = f"etcd.certfile: {certfile}, etcd.keyfile: {keyfile}: {reason_of(error)}"
            raise EtcdError(f"{text}; name a certificate and its key as PEM") from None
    return context
