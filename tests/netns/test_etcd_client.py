"""The client against a real etcd: what it does, and what it does when a member is gone, hangs or refuses."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager

import pytest

from overlayd.core.settings.values import Secret
from overlayd.lab.etcd import Etcd, loopback
from overlayd.lab.etcdctl import USER
from overlayd.registry.etcd.client import EtcdClient
from overlayd.registry.etcd.messages import (
    Batch,
    CompactedError,
    Delete,
    EtcdError,
    Put,
    UnavailableError,
    Unchanged,
    prefix_end,
)

PREFIX = "/coreos.com/network/"


@asynccontextmanager
async def client(*endpoints: str, **more: object) -> AsyncIterator[EtcdClient]:
    made = EtcdClient(endpoints, **more)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        await made.close()


def closed_port() -> str:
    """A URL that refuses connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


@contextlib.contextmanager
def silent_port() -> Iterator[str]:
    """A URL that accepts connections and never says a word, as a stopped process does."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


async def until(stream: AsyncIterator[Batch], count: int) -> list[Batch]:
    """The batches up to the one with the last of so many events."""
    found: list[Batch] = []
    while sum(len(batch.events) for batch in found) < count:
        found.append(await anext(stream))
    return found


# --- reading and writing ---------------------------------------------------------------------------------------------


async def test_what_it_writes_etcdctl_reads_and_the_reverse(etcd: Etcd) -> None:
    async with client(*etcd.endpoints) as one:
        assert await one.transact([Unchanged(PREFIX + "a", 0)], Put(PREFIX + "a", "ä=1")) == etcd.revision()
        assert etcd.get(PREFIX + "a") == "ä=1"
        etcd.put(PREFIX + "b", "2", lease=etcd.grant(100))
        keys, revision = await one.range(PREFIX)
        assert [(kv.key, kv.value, kv.lease == etcd.lease_of(kv.key)) for kv in keys] == [
            (PREFIX + "a", "ä=1", True),
            (PREFIX + "b", "2", True),
        ]
        assert revision == etcd.revision() == keys[-1].mod_revision


async def test_a_transaction_is_done_as_a_whole_or_not_at_all(etcd: Etcd) -> None:
    async with client(*etcd.endpoints) as one:
        first = await one.transact([], Put("/x", "1"), Put("/y", "1"))
        assert first is not None
        etcd.put("/y", "2")
        assert (
            await one.transact([Unchanged("/x", first), Unchanged("/y", first)], Put("/x", "3"), Delete("/y")) is None
        )
        assert (etcd.get("/x"), etcd.get("/y")) == ("1", "2")
        assert await one.transact([Unchanged("/x", first)], Delete("/x")) is not None
        assert etcd.get("/x") is None


async def test_more_keys_than_one_answer_holds(etcd: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overlayd.registry.etcd.client._PAGE", 7)
    async with client(*etcd.endpoints) as one:
        await one.transact([], *(Put(f"{PREFIX}{number:02}", "x") for number in range(30)))
        assert [kv.key for kv in (await one.range(PREFIX))[0]] == [f"{PREFIX}{number:02}" for number in range(30)]


async def test_etcd_leases(etcd: Etcd) -> None:
    async with client(*etcd.endpoints) as one:
        lease = await one.grant(100)
        assert etcd.leases() == {lease}
        assert await one.is_empty(lease)
        await one.transact([], Put("/x", "1", lease))
        assert etcd.lease_of("/x") == lease
        assert await one.keep_alive(lease) == 100
        left, granted = await one.time_to_live(lease)
        assert granted == 100
        assert 0 < left <= 100
        assert not await one.is_empty(lease)
        await one.revoke(lease)
        assert (etcd.leases(), etcd.get("/x")) == (set(), None)
        assert (await one.keep_alive(lease), await one.time_to_live(lease)) == (0, (0, 0))
        await one.revoke(lease)


def test_the_end_of_a_prefix() -> None:
    assert prefix_end("/a/") == "/a0"


# --- watching --------------------------------------------------------------------------------------------------------


async def test_a_watch_tells_what_happened_since_a_revision(etcd: Etcd) -> None:
    async with client(*etcd.endpoints) as one:
        etcd.put(PREFIX + "a", "1")
        revision = etcd.revision()
        etcd.put(PREFIX + "a", "2")
        etcd.put("/elsewhere", "2")
        etcd.delete(PREFIX + "a")
        async with aclosing(one.watch(PREFIX, revision + 1)) as stream:
            assert (await anext(stream)).events == (), "the watch stands"
            events = [event for batch in await until(stream, 2) for event in batch.events]
            assert [(event.key, event.kv and event.kv.value) for event in events] == [
                (PREFIX + "a", "2"),
                (PREFIX + "a", None),
            ]
            assert events[1].revision == etcd.revision()


async def test_a_watch_that_catches_up_says_how_far_it_is_and_no_further(etcd: Etcd) -> None:
    """Cut at any point, it is resumed after the last batch, and nothing is lost."""
    async with client(*etcd.endpoints) as one:
        revision = etcd.revision()
        for number in range(20):
            etcd.put(f"{PREFIX}{number}", "x")
        async with aclosing(one.watch(PREFIX, revision + 1)) as stream:
            assert (await anext(stream)).revision == 0, "it stands, and has told nothing yet"
            batch = await anext(stream)
            assert batch.revision == batch.events[-1].revision


async def test_a_large_answer_of_a_watch(etcd: Etcd) -> None:
    """Larger than any buffer for a line."""
    async with client(*etcd.endpoints) as one:
        revision = etcd.revision()
        for start in range(0, 400, 100):
            await one.transact([], *(Put(f"{PREFIX}{number}", "x" * 2000) for number in range(start, start + 100)))
        async with aclosing(one.watch(PREFIX, revision + 1)) as stream:
            events = [event for batch in await until(stream, 400) for event in batch.events]
            assert len({event.key for event in events}) == 400


async def test_a_watch_whose_start_was_compacted(etcd: Etcd) -> None:
    async with client(*etcd.endpoints) as one:
        for number in range(3):
            etcd.put(PREFIX + "a", str(number))
        revision = etcd.compact()
        async with aclosing(one.watch(PREFIX, revision - 1)) as stream:
            with pytest.raises(CompactedError, match=f"revisions before {revision} are compacted"):
                await until(stream, 1)


async def test_a_watch_whose_member_ends(etcd: Etcd) -> None:
    async with client(*etcd.endpoints) as one, aclosing(one.watch(PREFIX, 1)) as stream:
        await anext(stream)
        await asyncio.to_thread(etcd.members[0].kill)
        with pytest.raises(UnavailableError, match=etcd.endpoints[0]):
            await anext(stream)


# --- members that do not do it ---------------------------------------------------------------------------------------


async def test_the_next_member_is_asked_and_stays_the_one_to_ask(etcd: Etcd) -> None:
    bad, good = closed_port(), etcd.endpoints[0]
    async with client(bad, good) as one:
        assert await one.transact([], Put("/x", "1")) is not None
        assert one.endpoint == good
        one.next_endpoint()
        assert one.endpoint == bad
        assert (await one.get("/x"))[0] is not None


async def test_a_member_that_hangs_costs_one_time_out(etcd: Etcd) -> None:
    with silent_port() as hangs:
        async with client(hangs, etcd.endpoints[0], timeout=0.2) as one:
            assert await one.get("/x") == (None, etcd.revision())
        async with client(hangs, timeout=0.2) as one:
            with pytest.raises(UnavailableError, match=f"{hangs}: no answer in time"):
                await one.get("/x")


async def test_a_paused_etcd_does_not_answer(etcd: Etcd) -> None:
    async with client(*etcd.endpoints, timeout=0.2) as one:
        await one.get("/x")
        etcd.members[0].pause()
        with pytest.raises(UnavailableError, match="no answer in time"):
            await one.get("/x")


async def test_when_no_member_answers_each_says_why() -> None:
    one_port, other_port = closed_port(), closed_port()
    async with client(one_port, other_port) as one:
        with pytest.raises(UnavailableError) as error:
            await one.get("/x")
        assert f"{one_port}: " in str(error.value)
        assert f"{other_port}: " in str(error.value)


async def serve(answer: bytes) -> asyncio.Server:
    """Something that is no etcd."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    return await asyncio.start_server(handle, "127.0.0.1", 0)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n<html",
            "the answer '<html' is not etcd's; check that this is",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "is not etcd's"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", None),
        (b"SSH-2.0\r\n", None),
        (b"", None),
    ],
)
async def test_what_is_no_etcd(answer: bytes, text: str | None) -> None:
    server = await serve(answer)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, client(url) as one:
        with pytest.raises(UnavailableError, match=text):
            await one.get("/x")
        async with aclosing(one.watch("/", 1)) as stream:
            with pytest.raises(UnavailableError):
                await anext(stream)


# --- users -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded() -> Iterator[Etcd]:
    """An etcd that asks who is there."""
    with loopback() as etcd:
        etcd.enable_auth()
        yield etcd


SECRET = Secret(USER[1])


async def test_a_user_may_do_what_is_below_the_prefix_and_nothing_else(guarded: Etcd) -> None:
    async with client(*guarded.endpoints, username=USER[0], password=SECRET) as one:
        assert await one.transact([], Put(PREFIX + "a", "1")) is not None
        with pytest.raises(EtcdError, match="permission denied"):
            await one.transact([], Put("/elsewhere", "1"))
        lease = await one.grant(50)
        await one.transact([], Put(PREFIX + "b", "1", lease))
        assert await one.keep_alive(lease) == 50
        await one.revoke(lease)


async def test_a_token_is_made_anew_before_it_runs_out(guarded: Etcd) -> None:
    now = 0.0
    async with client(*guarded.endpoints, username=USER[0], password=SECRET, now=lambda: now) as one:
        tokens = set()
        for now in (0.0, 199.0, 201.0, 399.0, 402.0):  # noqa: B007  # read by the client's clock
            await one.get(PREFIX + "a")
            tokens.add(one._token)
        assert len(tokens) == 3


async def test_a_token_that_is_refused_is_made_anew(guarded: Etcd) -> None:
    """As after a restart of etcd, which forgets its tokens."""
    async with client(*guarded.endpoints, username=USER[0], password=SECRET) as one:
        await one.get(PREFIX + "a")
        one._token = "bad.7"
        await one.get(PREFIX + "a")
        one._token = "bad.7"
        with pytest.raises(UnavailableError, match="the watch was refused"):
            async with aclosing(one.watch(PREFIX, 1)) as stream:
                await anext(stream)
        async with aclosing(one.watch(PREFIX, 1)) as stream:
            assert (await anext(stream)).events == ()


@pytest.mark.parametrize(("name", "password"), [(USER[0], "wr0ng-word"), ("nobody", "wr0ng-word")])
async def test_a_wrong_password_is_said_and_not_shown(guarded: Etcd, name: str, password: str) -> None:
    async with client(*guarded.endpoints, username=name, password=Secret(password)) as one:
        with pytest.raises(EtcdError) as error:
            await one.get(PREFIX + "a")
        assert not isinstance(error.value, UnavailableError), "no retry heals it"
        assert f"user {name}: " in str(error.value)
        assert "check etcd.username and etcd.password" in str(error.value)
        assert password not in f"{error.value!r} {one!r} {vars(one)}"


async def test_a_client_certificate_with_a_common_name_is_named_as_the_cause() -> None:
    with loopback(tls=True) as etcd:
        etcd.enable_auth()
        assert etcd.tls is not None
        named = etcd.tls.authority.issue("named", common_name=USER[0])
        tls = ssl.create_default_context(cafile=etcd.tls.authority.cafile)
        tls.load_cert_chain(named.cert, named.key)
        async with client(*etcd.endpoints, tls=tls, username=USER[0], password=SECRET) as one:
            with pytest.raises(EtcdError, match="refuses client certificates that have a CommonName") as error:
                await one.get(PREFIX + "a")
            assert not isinstance(error.value, UnavailableError), "no retry heals it"


async def test_without_a_user_it_is_told_that_one_is_needed(guarded: Etcd) -> None:
    async with client(*guarded.endpoints) as one:
        with pytest.raises(EtcdError, match="user name is empty"):
            await one.get(PREFIX + "a")


async def test_a_user_where_none_is_asked_for(etcd: Etcd) -> None:
    async with client(*etcd.endpoints, username=USER[0], password=SECRET) as one:
        assert await one.get("/x") == (None, etcd.revision())
