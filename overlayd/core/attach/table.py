"""Every attachment of this host, and which addresses and ports they hold."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping

from overlayd.core.address import Address, Family
from overlayd.core.attach.errors import AttachError
from overlayd.core.attach.model import Attachment, AttachmentKey
from overlayd.core.attach.ports import PortTable


class AttachmentTable:
    """Attachments by key, in the order in which they were made. An address has one holder, and so has a port."""

    def __init__(self, attachments: Iterable[Attachment] = ()) -> None:
        self._attachments: dict[AttachmentKey, Attachment] = {}
        self._texts: dict[AttachmentKey, str] = {}
        """Each one's JSON, made once: the state file is written for each change of any."""
        self._holders: dict[Address, str] = {}
        self.ports = PortTable()
        self.last: dict[Family, Address] = {}
        """The address of each family that was given out last."""
        for one in attachments:
            self.put(one)

    def __len__(self) -> int:
        return len(self._attachments)

    def __iter__(self) -> Iterator[Attachment]:
        return iter(list(self._attachments.values()))

    def __contains__(self, key: object) -> bool:
        return key in self._attachments

    def get(self, key: AttachmentKey) -> Attachment | None:
        """The attachment with this key, if there is one."""
        return self._attachments.get(key)

    @property
    def taken(self) -> Mapping[Address, str]:
        """The addresses in use, each with its holder in words."""
        return self._holders

    @property
    def texts(self) -> Iterable[str]:
        """The JSON of each attachment."""
        return self._texts.values()

    def of(self, container: str) -> list[Attachment]:
        """Those of one container."""
        return [one for one in self._attachments.values() if one.container == container]

    def put(self, attachment: Attachment) -> None:
        """Add it, or replace the one with its key. Raises AttachError where another one has one of its addresses
        or ports."""
        former = self._attachments.get(attachment.key)
        own = {one.ip for one in former.addresses} if former is not None else set()
        for one in attachment.addresses:
            if one.ip in self._holders and one.ip not in own:
                raise AttachError(f"address {one.ip} is taken by {self._holders[one.ip]}", "taken")
        self.ports.put(attachment, former)
        if former is not None:
            self._forget(former)
        self._attachments[attachment.key] = attachment
        self._texts[attachment.key] = json.dumps(attachment.json(), separators=(",", ":"))
        for one in attachment.addresses:
            self._holders[one.ip] = str(attachment)
            self.last[one.version] = one.ip

    def remove(self, keys: Collection[AttachmentKey]) -> list[Attachment]:
        """Remove those of these that are there; returns them."""
        gone = [one for key in keys if (one := self._attachments.pop(key, None)) is not None]
        for one in gone:
            del self._texts[one.key]
            self._forget(one)
            self.ports.remove(one)
        return gone

    def _forget(self, attachment: Attachment) -> None:
        for one in attachment.addresses:
            self._holders.pop(one.ip, None)
