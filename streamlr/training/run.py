"""One run of passes, whatever is fitted in them: begun or gone on with, driven, told and kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from numpy.typing import NDArray

from streamlr.errors import WriteError, both
from streamlr.events import PassFinished, PathPassFinished
from streamlr.objective.objective import Objective
from streamlr.runs.checkpoint import Checkpoint
from streamlr.runs.directory import RunDirectory
from streamlr.runs.record import RunRecord
from streamlr.runs.session import Session
from streamlr.solvers import Solve, SolveProgress, minimize_together
from streamlr.solvers.loop import Evaluate

Result = TypeVar("Result")
Packed = tuple[dict[str, NDArray[Any]], dict[str, Any]]
"""Arrays, and values as JSON holds them."""


class Run(ABC, Generic[Result]):
    """What is known so far of a run, and the steps that add to it.

    Parameters
    ----------
    look
        The run's data, and who is told.
    directory
        Where it is kept; None where nothing is.

    Attributes
    ----------
    solves
        The problems and their solvers, once the first pass has told them.
    """

    solves: Sequence[Solve[Objective]]

    def __init__(self, session: Session, directory: RunDirectory | None) -> None:
        self.settings = session.settings
        self.session = session
        self.directory = directory
        self.record = RunRecord(session, directory)

    def finish(self, resume: bool) -> Result:
        """Make the run, or with ``resume`` what is left of it."""
        self.session.announce_plan()
        saved = self.record.load() if resume else None
        try:
            progress = self.begin() if saved is None else self.go_on(saved)
            progress = minimize_together(
                self.solves,
                progress,
                len(self.record.history),
                self.settings.solver.max_passes,
                self.evaluate(),
                self.pass_done,
                self.session.plan.columns,
            )
            return self.result(progress)
        except WriteError as error:
            raise WriteError(f"{both(error)}; {self.record.what_is_safe(error)}") from error
        except (Exception, KeyboardInterrupt):
            self.record.commit_finished()
            raise

    def pass_done(
        self, number: int, progress: Sequence[SolveProgress], complete: bool = True
    ) -> None:
        """Tell of a pass, and keep where the run stands if it can be gone on with from here."""

        def checkpoint() -> Checkpoint:
            return self.record.checkpoint(number, *self.packed(progress))

        ended = all(here.ended for here in progress)
        event = self.event(number, progress)
        self.record.pass_done(event, ended, checkpoint if complete else None)

    @abstractmethod
    def begin(self) -> list[SolveProgress]:
        """List the labels, sum the moments (pass 1), and set the solvers up."""

    @abstractmethod
    def go_on(self, saved: Checkpoint) -> list[SolveProgress]:
        """Take everything from a checkpoint."""

    @abstractmethod
    def evaluate(self) -> Evaluate[Objective]:
        """What makes a pass."""

    @abstractmethod
    def event(
        self, number: int, progress: Sequence[SolveProgress]
    ) -> PassFinished | PathPassFinished:
        """The line of the history for a pass."""

    @abstractmethod
    def packed(self, progress: Sequence[SolveProgress]) -> Packed:
        """What a checkpoint holds."""

    @abstractmethod
    def result(self, progress: Sequence[SolveProgress]) -> Result:
        """What the run leaves behind, written into its directory."""
