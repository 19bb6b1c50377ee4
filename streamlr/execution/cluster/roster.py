"""Which workers of a cluster take part in a run, why others do not, and with which arithmetic they
compute."""

from __future__ import annotations

import logging
from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import TypeVar

from streamlr.errors import ClusterError
from streamlr.execution.arithmetic import Arithmetic, arithmetic
from streamlr.execution.cluster.handshake import arithmetic_of, why_not
from streamlr.execution.cluster.tasks import Computed, reported_self
from streamlr.execution.cluster.workers import Workers, named

T = TypeVar("T", bound=Hashable)
log = logging.getLogger(__name__)

_TELL_SECONDS = 20.0
"""A worker that is asked first has streamlr to import, perhaps from a slow disk. Its tasks would
tell in any case."""


class Roster:
    """What the workers of a cluster have told of themselves.

    Parameters
    ----------
    workers
        Those who are asked.
    """

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._asked: set[str] = set()
        self._refused: dict[str, str] = {}
        self._arithmetic: dict[Arithmetic, set[str]] = {}

    def usable(self, addresses: Iterable[str]) -> list[str]:
        """Those of the workers that may take part, as far as is known."""
        return sorted(address for address in addresses if address not in self._refused)

    def refused(self, addresses: Iterable[str]) -> dict[str, str]:
        """Those that may not, and why."""
        return {
            address: self._refused[address]
            for address in sorted(addresses)
            if address in self._refused
        }

    def meet(self, addresses: Collection[str]) -> list[str]:
        """Ask those who have not been asked yet; returns those that may not take part, which a
        warning has named.

        Raises
        ------
        TimeoutError, OSError
            When the scheduler does not answer.
        """
        unknown = [address for address in addresses if address not in self._asked]
        if not unknown:
            return []
        reported = self._workers.ask_aside(unknown, reported_self, seconds=_TELL_SECONDS)
        self._asked.update(unknown)
        heard = {address: answer for address, answer in reported.items() if answer is not None}
        why = {address: why_not(answer) for address, answer in heard.items()}
        found = {address: reason for address, reason in why.items() if reason is not None}
        self._refused |= found
        for reason, who in _by_value(found).items():
            log.warning(
                "leaving out %s: %s; install there the streamlr that this process has",
                named(who),
                reason,
            )
        self.note(
            (arithmetic_of(answer), address)
            for address, answer in heard.items()
            if address not in found and not isinstance(answer, Exception)
        )
        return sorted(found)

    def meet_again(self, addresses: Collection[str]) -> list[str]:
        """Ask all of them anew: one may have been started again at the same address. Returns those
        newly refused."""
        before = self.refused(addresses)
        self._asked.clear()
        for address in addresses:
            self._refused.pop(address, None)
        return [address for address in self.meet(addresses) if address not in before]

    def note(self, computed: Iterable[Computed]) -> None:
        """Keep who computes with which arithmetic; a warning names the first of another than this
        process has."""
        new = {
            address: known
            for known, address in computed
            if address not in self._arithmetic.get(known, ())
        }
        for known, who in _by_value(new).items():
            if known.digest != arithmetic().digest and known not in self._arithmetic:
                log.warning(
                    "%s: computing with other arithmetic, %s, than this process, %s. The last bits "
                    "of the result depend on who sums what; the environment variables "
                    "OPENBLAS_CORETYPE and NPY_DISABLE_CPU_FEATURES, set alike everywhere, make "
                    "them one",
                    named(who),
                    known,
                    arithmetic(),
                )
            self._arithmetic.setdefault(known, set()).update(who)

    def arithmetic(self) -> list[dict[str, object]]:
        """What was computed with, and by which workers."""
        return [
            {
                "digest": known.digest,
                "numpy": known.numpy,
                "blas": known.blas,
                "workers": sorted(who),
            }
            for known, who in sorted(self._arithmetic.items(), key=lambda pair: str(pair[0]))
        ]

    def require_usable(self, addresses: Collection[str], scheduler: str) -> None:
        """Raise a `ClusterError` where there are workers, and none of them may take part."""
        if addresses and not self.usable(addresses):
            raise ClusterError(
                f"none of the {len(addresses)} workers at {scheduler} can take part "
                f"({self._reasons(addresses)}); install on them the streamlr that this process has"
            )

    def but_for(self) -> str:
        """For messages of workers that are missing: those who were left out, if any."""
        return f" but those left out ({self._reasons(self._refused)})" if self._refused else ""

    def _reasons(self, addresses: Collection[str]) -> str:
        refused = {address: why for address, why in self._refused.items() if address in addresses}
        return "; ".join(f"{named(who)}: {reason}" for reason, who in _by_value(refused).items())


def _by_value(mapping: Mapping[str, T]) -> dict[T, list[str]]:
    """The keys of each value."""
    found: dict[T, list[str]] = {}
    for key, value in mapping.items():
        found.setdefault(value, []).append(key)
    return found
