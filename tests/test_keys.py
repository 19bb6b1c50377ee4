"""The scheduler and the workers that a run starts for itself answer to its own key alone, on the
loopback interface alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import psutil
import pytest
from distributed import Client, Security
from distributed.comm import connect

from streamlr.config.sections import ClusterConfig
from streamlr.execution import open_engine
from streamlr.execution.cluster.engine import ClusterEngine


@pytest.fixture(scope="module")
def engine() -> Iterator[ClusterEngine]:
    with open_engine(ClusterConfig(kind="processes", workers=2)) as engine:
        assert isinstance(engine, ClusterEngine)
        yield engine


def ports_of_servers(engine: ClusterEngine) -> list[int]:
    """Of the scheduler, the workers and their nannies."""
    known = engine._client.scheduler_info(n_workers=-1)
    workers = known["workers"]
    addresses = [known["address"], *workers, *(worker["nanny"] for worker in workers.values())]
    return [int(address.rpartition(":")[2]) for address in addresses]


def test_nothing_listens_but_on_the_loopback_interface(engine: ClusterEngine) -> None:
    me = psutil.Process()
    found = [
        connection.laddr
        for process in (me, *me.children(recursive=True))
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert {address.port for address in found} >= set(ports_of_servers(engine))
    assert {address.ip for address in found} == {"127.0.0.1"}
    assert engine.dashboard_link is not None
    assert engine.dashboard_link.startswith("http://127.0.0.1:")


@pytest.mark.parametrize("kind", ["no key", "another key"])
def test_whoever_lacks_the_key_is_refused_on_every_port(kind: str, engine: ClusterEngine) -> None:
    stranger = Security() if kind == "no key" else Security.temporary()
    scheme = "tcp" if kind == "no key" else "tls"

    async def ask(port: int, security: Security, scheme: str) -> object:
        comm = await connect(
            f"{scheme}://127.0.0.1:{port}", timeout=2, **security.get_connection_args("client")
        )
        try:
            await comm.write({"op": "identity", "reply": True})
            return await asyncio.wait_for(comm.read(), 2)
        finally:
            comm.abort()

    ports = ports_of_servers(engine)
    assert len(ports) == 5
    for port in ports:
        with pytest.raises((OSError, asyncio.TimeoutError)):
            asyncio.run(ask(port, stranger, scheme))
        assert asyncio.run(ask(port, engine._client.security, "tls")), "who has it is let in"


@pytest.mark.parametrize("kind", ["no key", "another key"])
def test_a_second_client_without_the_key_runs_nothing(kind: str, engine: ClusterEngine) -> None:
    address = engine._client.scheduler.address
    assert address.startswith("tls://")
    security = None if kind == "no key" else Security.temporary()
    with pytest.raises(
        OSError, match=r"Connection reset by peer|closed|TLS certificate does not match"
    ):
        Client(
            address if security else address.replace("tls://", "tcp://"),
            security=security,
            timeout=2,
            set_as_default=False,  # a client that is not let in would leave it so
        )


def test_a_client_with_the_key_is_let_in(engine: ClusterEngine) -> None:
    with Client(
        engine._client.scheduler.address, security=engine._client.security, timeout=20
    ) as owner:
        assert owner.submit(sum, [1, 2]).result(timeout=20) == 3
