"""Parsers for the values of the section `etcd:`, as in `values`."""

from __future__ import annotations

import re
from urllib.parse import urlsplit


def urls(value: object) -> str:
    """URLs of servers: text, separated by commas, or a list."""
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return _urls(",".join(value))
    if not isinstance(value, str):
        raise ValueError("takes a list of URLs, or URLs separated by commas")
    return _urls(value)


_NOT_URLS = "is not a list of URLs like http://192.0.2.1:2379,http://192.0.2.2:2379"


def _urls(text: str) -> str:
    """Endpoints as text; where all are without a scheme, as flannel and etcdctl take them, they stay so."""
    words = [one.strip() for one in text.split(",")]
    schemes = {scheme for one in words for scheme, separator, _ in [one.partition("://")] if separator}
    if not schemes <= {"http", "https"}:
        raise ValueError(_NOT_URLS)
    if len(schemes) > 1:
        raise ValueError("mixes http and https; use one of them for all")
    scheme = "".join(f"{one}://" for one in schemes)
    return ",".join(dict.fromkeys(scheme + _host_and_port(one.removeprefix(scheme)) for one in words))


def _host_and_port(text: str) -> str:
    try:
        parts = urlsplit(f"//{text}")
        complete = parts.hostname and parts.port is not None and parts.path in ("", "/")
    except ValueError:
        parts, complete = urlsplit(""), False
    if "@" in parts.netloc:
        raise ValueError("holds a user or a password; use the settings etcd.username and etcd.password")
    if not complete or parts.query or parts.fragment:
        raise ValueError(_NOT_URLS)
    return parts.netloc


def user_name(text: str) -> str:
    """The name of an etcd user."""
    if not text.isprintable() or len(text) > 100:
        raise ValueError("is not a valid user name")
    return text


def etcd_prefix(text: str) -> str:
    """A prefix of keys in etcd; a slash at its end is removed."""
    if not re.fullmatch(r"(/[A-Za-z0-9._-]+)+/?", text):
        raise ValueError("is not a valid key prefix; write it like /coreos.com/network")
    return text.rstrip("/")
