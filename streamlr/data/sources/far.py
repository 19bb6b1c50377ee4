"""Stores at an address: how they are come to, and what is told where they are not to be reached.

The file systems' own errors say little, and the same of different things: that a bucket is missing
and that a file in it is. So where a store could not be opened a few questions more are asked.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Coroutine, Mapping
from typing import Any

from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.errors import ContainsArrayError
from zarr.storage import FsspecStore

from streamlr.config.sections import DataConfig
from streamlr.data.chunks.failures import Failure, failure_of, is_unknown_host, reason
from streamlr.data.chunks.retries import UnreadableError, limited
from streamlr.data.chunks.wrapped import FarStore
from streamlr.errors import ConfigError, StoreNotFoundError, StoreUnreachableError, option, override

_WITH_BUCKETS = frozenset(
    ["abfs", "abfss", "adl", "az", "b2", "cos", "gcs", "gs", "oci", "oss", "r2", "s3", "s3a", "tos"]
)
"""Schemes of which the first part of a path is a bucket, or what others call one."""
_OF_AMAZON = frozenset(("s3", "s3a"))
_WITHOUT_LISTING = frozenset(("http", "https"))
_LEVELS = 6
_ASK_SECONDS = 20.0
_NEAR = 3


def is_far_address(path: str) -> bool:
    """Whether a store is at an address, such as ``s3://bucket/a.zarr``; what lies in memory is not
    far."""
    return "://" in path and not path.startswith("memory:")


def scheme_of(url: str) -> str:
    """Of the file system that has the files: the last of those that are chained
    (``simplecache::s3://``)."""
    return re.split("::", url.partition("://")[0])[-1].strip().lower()


def has_no_listing(url: str) -> bool:
    """Whether nothing tells what there is at an address but what its metadata say."""
    return scheme_of(url) in _WITHOUT_LISTING


def far_store(url: str, config: DataConfig) -> FarStore:
    """The store at an address, not looked at yet.

    Raises
    ------
    StoreNotFoundError, ConfigError
        When nothing serves such addresses, or not with these options.
    """
    shown, scheme = config.shown_store, scheme_of(url)
    try:
        return FarStore(
            FsspecStore.from_url(
                url, storage_options=_options(scheme, config) or None, read_only=True
            )
        )
    except ImportError as error:
        raise StoreNotFoundError(
            f"{shown!r} needs a file system that is not installed: "
            f"{config.without_secrets(str(error))}; install it here (and on the "
            "workers), or copy the store to a local folder"
        ) from None
    except ValueError as error:
        if "rotocol not known" not in str(error):
            raise StoreNotFoundError(
                f"{shown!r} is no address of a store ({config.without_secrets(str(error))}); "
                "check data.store"
            ) from None
        raise StoreNotFoundError(
            f"nothing that is installed reads addresses that begin with {scheme}:// ({shown!r}); "
            "check the spelling in data.store, or "
            "install the package that gives fsspec this scheme"
        ) from None
    except TypeError as error:
        raise ConfigError(
            f"data.storage_options: the file system of {scheme}:// does not take them "
            f"({config.without_secrets(str(error))}); check their "
            "names"
        ) from None
    except Exception as error:  # file systems raise whatever they like; some connect at once
        if failure_of(error) is Failure.MEMORY:
            raise
        raise far_error(error, None, config) from None


def _options(scheme: str, config: DataConfig) -> dict[str, Any]:
    """Options of the file system, in which botocore's own attempts are no more than one unless they
    were asked for: they take a minute, in which it does not tell what is wrong."""
    options = dict(config.storage_options)
    reported = options.get("config_kwargs") or {}
    if scheme in _OF_AMAZON and isinstance(reported, Mapping) and "retries" not in reported:
        options["config_kwargs"] = {**reported, "retries": {"total_max_attempts": 1}}
    return options


def far_error(error: Exception, store: FarStore | None, config: DataConfig) -> StoreNotFoundError:
    """The error that says why a store at an address cannot be opened, and what to do.

    Parameters
    ----------
    error
        What was met with.
    store
        What was to be opened, which may be asked more; None where there was none yet.
    config
        Where that is.
    """
    shown, failure = config.shown_store, failure_of(error)
    if isinstance(error, UnreadableError):
        return _unreachable(error, config)
    refused = error if failure is Failure.REFUSED else None if store is None else store.refusal
    if refused is not None:
        return _refused(refused, store, config)
    why = config.without_secrets(reason(error))
    if store is not None and isinstance(error, ContainsArrayError):
        return _is_an_array(shown)
    if store is None or failure is not Failure.ABSENT:
        return StoreNotFoundError(
            f"no Zarr group at {shown!r} ({type(error).__name__}: {why}); check data.store"
        )
    return _absent(store, config)


def _unreachable(error: UnreadableError, config: DataConfig) -> StoreUnreachableError:
    shown = config.shown_store
    where = (
        "data.store"
        if has_no_listing(config.store)
        else "data.store, or the endpoint in data.storage_options"
    )
    if (
        error.failure is Failure.NOBODY
        and error.__cause__ is not None
        and is_unknown_host(error.__cause__)
    ):
        return StoreUnreachableError(
            f"{shown!r} cannot be reached: its host is not known, {error}; check the host's name "
            f"in {where}, and the network"
        )
    if error.failure is Failure.NOBODY:
        return StoreUnreachableError(
            f"nobody answers at {shown!r}, {error}; check host and port in {where}, and that the "
            "server runs"
        )
    return StoreUnreachableError(
        f"{shown!r} cannot be opened, {error}; see to the network and the server, then start "
        f"again, or add {option('resume')} "
        "to go on with a run"
    )


def _refused(error: Exception, store: FarStore | None, config: DataConfig) -> StoreUnreachableError:
    shown, why = config.shown_store, reason(error)
    if "redentials" in type(error).__name__ or "redentials" in why.partition(":")[0]:
        return StoreUnreachableError(
            f"{shown!r} cannot be opened without credentials ({config.without_secrets(why)}); "
            "give them in data.storage_options or "
            "where the file system looks for them (for s3:// to what all may read: "
            f"{override('data.storage_options.anon=true')})"
        )
    if store is not None:
        # an answer without content, as to HEAD, does not say whether it is who asks or what is
        # asked for
        reported = _asked(_listed(store)) if isinstance(store.wrapped, FsspecStore) else None
        why = (
            reason(reported)
            if isinstance(reported, Exception) and failure_of(reported) is Failure.REFUSED
            else why
        )
    return StoreUnreachableError(
        f"access to {shown!r} is refused ({config.without_secrets(why)}); check the credentials "
        "in data.storage_options and what "
        "they may read, and the path: of what is not there, a store that may not be listed says "
        "the same"
    )


def _absent(store: FarStore, config: DataConfig) -> StoreNotFoundError:
    """There is no group; look for what there is."""
    shown, inner = config.shown_store, store.wrapped
    if _is_array(store):
        return _is_an_array(shown)
    scheme = scheme_of(config.store)
    if not isinstance(inner, FsspecStore) or scheme in _WITHOUT_LISTING:
        return StoreNotFoundError(
            f"no Zarr group at {shown!r}: the server answers, and has neither zarr.json nor "
            ".zgroup there; check the path in data.store"
        )
    bucket, _, below = inner.path.strip("/").partition("/")
    if scheme in _WITH_BUCKETS and isinstance(_asked(inner.fs._info(bucket)), FileNotFoundError):
        return StoreNotFoundError(
            f"there is no bucket {bucket!r} ({shown!r}); check its name in data.store, and region "
            "and endpoint in data.storage_options"
        )
    what = (
        f"the bucket {bucket!r} exists, and holds none at {below!r}"
        if scheme in _WITH_BUCKETS
        else "there is neither zarr.json nor .zgroup"
    )
    return StoreNotFoundError(
        f"no Zarr group at {shown!r}: {what}{_nearest(inner, config)}; check the path in data.store"
    )


def _is_an_array(shown: str) -> StoreNotFoundError:
    return StoreNotFoundError(
        f"{shown!r} is a Zarr array; data.store must be the group that holds features and target"
    )


def _is_array(store: FarStore) -> bool:
    found = [
        _asked(store.get(name, default_buffer_prototype())) for name in ("zarr.json", ".zarray")
    ]
    if found[0] is None or isinstance(found[0], Exception):
        return found[1] is not None and not isinstance(found[1], Exception)
    try:
        return bool(json.loads(found[0].to_bytes()).get("node_type") == "array")
    except (ValueError, AttributeError, RecursionError):
        return False


def _nearest(store: FsspecStore, config: DataConfig) -> str:
    """The nearest folder above a path that exists, and what in it has a name like the one that was
    looked for."""
    *above, name = store.path.strip("/").split("/")
    root = "/" if store.path.startswith("/") else ""
    for _ in range(min(len(above), _LEVELS)):
        folder = root + "/".join(above)
        names = _asked(store.fs._ls(folder, detail=False))
        if isinstance(names, list):
            inside = [str(entry).rstrip("/").rpartition("/")[2] for entry in names]
            near = difflib.get_close_matches(name, inside, _NEAR) or sorted(inside)[:_NEAR]
            text = (
                f" (the nearest folder that does exist is {folder!r}"
                + (f", with {', '.join(near)}" if near else "")
                + ")"
            )
            return config.without_secrets(text)
        name = above.pop()
    return ""


async def _listed(store: FarStore) -> list[str]:
    inner: Any = store.wrapped
    found: list[str] = await inner.fs._ls(inner.path, detail=False)
    return found


def _asked(question: Coroutine[Any, Any, Any]) -> Any:
    """What a file system answers, its error included: the question is asked for a message alone."""
    try:
        return sync(limited(question), timeout=_ASK_SECONDS)
    except Exception as error:
        return error
