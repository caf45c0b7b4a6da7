"""nftables through `nft -j`: one process, one transaction."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections import deque
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from typing import cast

from overlayd.core.kernel import flannel_rules
from overlayd.core.kernel.diff import Operation
from overlayd.core.kernel.firewall import COMMENT, OUTBOUND, PORTS_TABLE, TABLE, ForeignChain, ForeignRules
from overlayd.core.kernel.kinds import Command, KernelObject, NftObject, PortElement, Ruleset, SetElement
from overlayd.core.kernel.nft_json import Json
from overlayd.system.errors import HostError

_TIMEOUT = 30  # seconds; nft answers in milliseconds, or waits for a lock that nobody gives back

_own: deque[int] = deque(maxlen=64)
"""The netlink ports of the last nft processes that we ran; libmnl's port is the process id."""


def is_own(port: int) -> bool:
    """Whether rules that came from this netlink port are our doing."""
    return port in _own


def available() -> bool:
    """Whether there is an nft to run."""
    return shutil.which("nft") is not None


async def _nft(*arguments: str, script: str | None = None) -> tuple[int, str, str]:
    """Run nft; its exit status, output and error output. Raises HostError when it cannot be run or does not answer."""
    if not available():
        raise HostError("nft: not found; install nftables (apt install nftables)")
    # nft opens /dev/stdin by name, which fails on the socket that uvloop makes of a pipe: give it a file in memory.
    try:
        with os.fdopen(os.memfd_create("nft"), "wb+") as stdin:
            stdin.write((script or "").encode())
            stdin.seek(0)  # of its own language it reads descriptor 0 itself
            process = await asyncio.create_subprocess_exec(
                "nft", *arguments, stdin=stdin, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
            )
    except OSError as error:  # out of descriptors or processes
        raise HostError(f"nft {' '.join(arguments)}: cannot be run: {error.strerror}") from None
    _own.append(process.pid)
    try:
        async with asyncio.timeout(_TIMEOUT):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise HostError(f"nft {' '.join(arguments)}: no answer in {_TIMEOUT} s") from None
    return process.returncode or 0, out.decode(errors="replace"), err.decode(errors="replace")


async def _list(*what: str) -> list[Json]:
    """The objects of a listing; empty where there is none."""
    status, out, err = await _nft("-j", "list", *what)
    if status:
        if "No such file" in err:
            return []
        raise HostError(f"nft list {' '.join(what)}: {err.strip().splitlines()[0] if err.strip() else status}")
    listing: list[Json] = json.loads(out or "{}").get("nftables", [])
    return listing


def _ours(item: Json) -> bool:
    return str(item.get("rule", {}).get("comment", "")).startswith(COMMENT)


async def read() -> tuple[list[KernelObject], ForeignRules]:
    """Our tables, rules and set elements, and what of others' rules matters to ours. Raises HostError."""
    objects: list[KernelObject] = []
    dropping: list[ForeignChain] = []
    flannels: list[ForeignChain] = []
    source_nat = False
    published = False
    own, chains = await asyncio.gather(_read_own(TABLE), _list("chains"))
    for item in chains:
        chain = item.get("chain", {})
        if chain.get("family") not in ("ip", "ip6", "inet"):
            continue
        if chain["table"] in (TABLE, PORTS_TABLE):
            published |= chain["table"] == PORTS_TABLE
            continue
        if flannel_rules.is_flannels(chain):
            flannels.append(ForeignChain(chain["family"], chain["table"], chain["name"]))
        source_nat |= (chain.get("type"), chain.get("hook")) == ("nat", "postrouting")
        if chain.get("hook") == "forward":
            foreign = ForeignChain(chain["family"], chain["table"], chain["name"])
            if chain.get("policy") == "drop" and chain.get("type") == "filter":
                dropping.append(foreign)
            rules = await _list("chain", foreign.family, foreign.table, foreign.chain)
            comments = tuple(rule["rule"]["comment"] for rule in rules if _ours(rule))
            if comments:
                objects.append(Ruleset(foreign.family, foreign.table, foreign.chain, comments))
    if published:
        own += await _read_own(PORTS_TABLE)
    return [*objects, *own], ForeignRules(tuple(dropping), source_nat, tuple(flannels))


async def _read_own(table: str) -> list[KernelObject]:
    listing = await _list("table", "inet", table)
    if not listing:
        return []
    objects: list[KernelObject] = []
    comments = []
    for item in listing:
        if "rule" in item:
            # A rule that is not ours in our table counts too, so that it is noticed and goes.
            comments.append(f"{item['rule']['chain']}: {item['rule'].get('comment', 'no comment')}")
        elif "set" in item:
            objects += [
                SetElement(table, item["set"]["name"], ip_address(element))
                for element in item["set"].get("elem", [])
                if isinstance(element, str)
            ]
        elif "map" in item:
            found = (_port_element(table, item["map"]["name"], one) for one in item["map"].get("elem", []))
            objects += [element for element in found if element is not None]
    return [Ruleset("inet", table, None, tuple(comments)), *objects]


def _port_element(table: str, name: str, element: list[Json]) -> PortElement | None:
    """A map's element as nft lists it; None of one that is not of our form."""
    try:
        [protocol, *address, port], [target, target_port] = (side["concat"] for side in element)
        return PortElement(
            table, name, protocol, ip_address(*address) if address else None, port, ip_address(target), target_port
        )
    except (TypeError, KeyError, ValueError):
        return None


async def counters() -> dict[str, dict[str, int]]:
    """Packets counted by the dropping rules of our own table: by direction (tx, rx) and the rule's text."""
    counts: dict[str, dict[str, int]] = {"tx": {}, "rx": {}}
    for item in await _list("table", "inet", TABLE):
        rule = item.get("rule", {})
        expressions = rule.get("expr", [])
        if _ours(item) and any("drop" in expression for expression in expressions):
            text = rule["comment"].removeprefix(COMMENT).rsplit(" #", 1)[0]
            packets = sum(expression["counter"]["packets"] for expression in expressions if "counter" in expression)
            if packets:
                counts["tx" if rule["chain"] == OUTBOUND else "rx"][text] = packets
    return counts


async def apply(operations: Sequence[Operation]) -> None:
    """Do operations on rules and elements in one transaction; their commands are all of one form. Raises HostError, and
    then nothing was done."""
    commands: list[Command] = []
    gone = {step.object.key for step in operations if step.verb == "delete"}
    for step in operations:
        thing = cast(NftObject, step.object)
        if thing.parent in gone:
            continue  # goes along
        chain = thing.edited_chain if step.verb != "add" else None
        handles = await _own_handles(chain) if chain is not None else ()
        commands += thing.commands(step.verb, handles)
    await _run(commands)


async def remove_flannels(chains: Sequence[ForeignChain]) -> None:
    """Remove flannel's chains, and the rules that jump to them. Raises HostError, and then nothing was done."""
    listings = {place: await _list("table", *place) for place in {(one.family, one.table) for one in chains}}
    await _run(flannel_rules.removal(chains, listings))


async def _run(commands: Sequence[Command]) -> None:
    if not commands:
        return
    in_json = [one for one in commands if not isinstance(one, str)]
    if in_json:
        status, _, err = await _nft("-j", "-f", "-", script=json.dumps({"nftables": _merged(in_json)}))
    else:
        status, _, err = await _nft("-f", "-", script="\n".join(map(str, commands)))
    if status:
        lines = [line for line in err.splitlines() if line.strip()]
        raise HostError(f"nft refused our rules: {lines[0] if lines else f'exit status {status}'}")


def _merged(commands: Iterable[Json]) -> list[Json]:
    """The same commands, with one for all elements that are added to a set or deleted from it."""
    found: list[Json] = []
    elements: dict[tuple[str, str, str], list[str]] = {}
    for command in commands:
        [(verb, thing)] = command.items()
        element = thing.get("element")
        if element is None:
            found.append(command)
            continue
        key = (verb, element["table"], element["name"])
        if key not in elements:
            elements[key] = element["elem"]
            found.append(command)
        else:
            elements[key] += element["elem"]
    return found


async def _own_handles(chain: Json) -> list[int]:
    """The handles of our rules in a foreign chain."""
    listing = await _list("chain", chain["family"], chain["table"], chain["chain"])
    return [item["rule"]["handle"] for item in listing if _ours(item)]
