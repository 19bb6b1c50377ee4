"""How an engine in other processes comes to its cluster: one of its own, or a Dask scheduler that
is there already."""

from __future__ import annotations

import copy
import logging
import ssl

import dask
from distributed import Client, LocalCluster, Security, TimeoutError

from streamlr.config.sections import ClusterConfig, TlsConfig
from streamlr.errors import ClusterError, ConfigError
from streamlr.execution.cluster.engine import (
    CLOSE_SECONDS,
    WORKER_DEATHS,
    ClusterEngine,
    close_cluster,
)
from streamlr.execution.cluster.workers import Starting, call_with_timeout
from streamlr.execution.engine import Engine
from streamlr.execution.local import available_cores

log = logging.getLogger(__name__)

_CONNECT_SECONDS = 30
_START_SECONDS = 120.0
_STARTS = 3
_MEMORY_OF_WORKERS = {
    f"distributed.worker.memory.{key}": value
    for key, value in {"target": False, "spill": False, "pause": False, "terminate": 1.0}.items()
}
"""The plan keeps workers to their limit. What they hold is in use: moved to disk it would be read
back, and a paused worker would wait for ever."""

_FOR_ALL = False
"""Whether what else this process computes with Dask goes to the workers of a run; a client that
finds nobody would leave it so for good."""


def count_processes(config: ClusterConfig) -> int:
    """Number of worker processes: those that were asked for, or as many as fill the cores."""
    return config.workers or max(1, available_cores() // config.threads_per_worker)


def open_processes(config: ClusterConfig) -> Engine:
    """The engine of ``cluster.kind: processes``: a scheduler and workers on this machine, gone with
    the run."""
    for attempt in range(1, _STARTS + 1):
        cluster, starting = None, Starting()
        try:
            cluster = call_with_timeout(
                _START_SECONDS, lambda: _start_cluster(config), starting.kill_stopped
            )
            client = Client(
                cluster, timeout=_CONNECT_SECONDS, direct_to_workers=True, set_as_default=_FOR_ALL
            )
            return ClusterEngine(client, cluster.scheduler_address, config.stall_seconds, cluster)
        except (
            Exception
        ) as error:  # a worker that dies while it starts ends in whatever error met it
            log.warning(
                "the worker processes did not start (%s), attempt %d of %d",
                str(error) or type(error).__name__,
                attempt,
                _STARTS,
            )
            if cluster is not None:
                close_cluster(cluster)
            starting.kill()
            if attempt == _STARTS:
                raise ClusterError(
                    f"the worker processes did not start in {_STARTS} attempts "
                    f"({str(error) or type(error).__name__}); check memory and "
                    "processes of this machine, or use cluster.kind: threads"
                ) from error
    raise AssertionError("unreachable")


def _start_cluster(config: ClusterConfig) -> LocalCluster:
    """Scheduler and workers that talk to holders of a key alone, which exists in their memory and
    for this run: whoever can speak to them runs code as their owner, and all users of the machine
    reach its loopback interface."""
    with dask.config.set(
        {"distributed.scheduler.allowed-failures": WORKER_DEATHS, **_MEMORY_OF_WORKERS}
    ):
        return LocalCluster(
            n_workers=count_processes(config),
            threads_per_worker=config.threads_per_worker,
            processes=True,
            memory_limit="auto" if config.memory_limit is None else config.memory_limit,
            config=copy.deepcopy(
                dask.config.config
            ),  # a worker that is started again, later, would otherwise have lost these settings
            security=Security.temporary(),
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.ERROR,
        )


def open_address(config: ClusterConfig) -> Engine:
    """The engine of ``cluster.kind: address``: an existing scheduler and its workers.

    Raises
    ------
    ConfigError
        When a file of ``cluster.tls`` cannot be used.
    ClusterError
        When nobody answers there, or the scheduler has no workers, or none that can take part.
    """
    security = None if config.tls is None else _security(config.tls)
    try:
        client = Client(
            config.address, timeout=_CONNECT_SECONDS, security=security, set_as_default=_FOR_ALL
        )
    except (
        OSError,
        TimeoutError,
        ValueError,
        TypeError,
    ) as error:  # a tls address without files is a TypeError
        raise ClusterError(
            f"no Dask scheduler answers at {config.address!r} within {_CONNECT_SECONDS} s "
            f"({error}); check "
            "cluster.address and cluster.tls, or start one with `dask scheduler`"
        ) from error
    try:
        client.wait_for_workers(1, timeout=_CONNECT_SECONDS)
    except TimeoutError:
        client.close(timeout=CLOSE_SECONDS)
        raise ClusterError(
            f"the scheduler at {config.address!r} has no workers; start some with `dask worker "
            f"{config.address}`"
        ) from None
    try:
        return ClusterEngine(client, str(config.address), config.stall_seconds)
    except ClusterError:
        client.close(timeout=CLOSE_SECONDS)
        raise


def _security(tls: TlsConfig) -> Security:
    """Try the files before they are handed on, since a connection that fails does not say which of
    them is wrong."""
    for key, path in {"ca_file": tls.ca_file, "cert": tls.cert, "key": tls.key}.items():
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            raise ConfigError(
                f"cluster.tls.{key}: cannot read {path!r} ({error.strerror}); give the path of a "
                "PEM file"
            ) from error
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(cafile=tls.ca_file)
    except ssl.SSLError as error:
        raise ConfigError(
            f"cluster.tls.ca_file: {tls.ca_file!r} holds no certificate ({error}); give the "
            "authority's certificate in PEM format"
        ) from error
    try:
        context.load_cert_chain(
            tls.cert, tls.key, password=""
        )  # an empty one, or a key under a password would have it asked for on the terminal
    except ssl.SSLError as error:
        raise ConfigError(
            f"cluster.tls.cert and cluster.tls.key: {tls.cert!r} and {tls.key!r} are not a "
            "certificate and its private key without a "
            f"password ({error}); give both in PEM format"
        ) from error
    return Security(
        require_encryption=True,
        tls_ca_file=tls.ca_file,
        tls_client_cert=tls.cert,
        tls_client_key=tls.key,
    )
