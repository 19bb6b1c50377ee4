"""What a person sees: a bar on a terminal and nowhere else, plain lines elsewhere, warnings alone
when quiet."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

import pytest

from streamlr.events import Event, Note, PassFinished, ScanFinished, ScanStarted, SlabFinished
from streamlr.reporting.console import Console, RowCounter, json_text, pass_line, plain

PASS = PassFinished(3, 0.25, 0.375, 1.5e-7, 1.0, 2.0, 8_000_000_000)
SCAN: list[Event] = [
    ScanStarted("pass 3", 4, 4_000_000),
    *[SlabFinished(1_000_000)] * 4,
    ScanFinished(),
]
RUN: list[Event] = [
    Note("4 rows on 1 thread"),
    *SCAN,
    PASS,
    Note("2 features are constant", warning=True),
]


class Terminal:
    """A pseudo-terminal that keeps what is written to it."""

    def __init__(self) -> None:
        self.master, slave = pty.openpty()
        termios.tcsetwinsize(
            slave, (24, 100)
        )  # a new one has no size, and a bar of no width cannot be seen
        self.stream: TextIO = os.fdopen(slave, "w", encoding="utf-8")
        self._parts: list[bytes] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                part = os.read(self.master, 65536)
            except OSError:  # Linux says so when the other end is closed
                return
            if not part:
                return
            self._parts.append(part)

    def text(self) -> str:
        """All that was written; closes the terminal."""
        self.stream.close()
        self._reader.join()
        os.close(self.master)
        return b"".join(self._parts).decode()


def on_terminal(write: Callable[[TextIO], None]) -> str:
    terminal = Terminal()
    write(terminal.stream)
    return terminal.text()


def in_file(write: Callable[[TextIO], None]) -> str:
    stream = io.StringIO()
    write(stream)
    return stream.getvalue()


def told(events: list[Event], quiet: bool = False) -> Callable[[TextIO], None]:
    def write(stream: TextIO) -> None:
        console = Console(quiet=quiet, stream=stream)
        for event in events:
            console(event)

    return write


@contextmanager
def no_pause_between_updates(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the bar redraw at every slab instead of ten times a second."""
    with monkeypatch.context() as patch:
        clock = iter(range(10**9))
        patch.setattr("time.time", lambda: float(next(clock)))
        patch.setattr("tqdm.std.time", lambda: float(next(clock)))
        yield


def screen(text: str) -> list[str]:
    """The lines that are left on a terminal when all is written."""
    lines = []
    for line in text.replace("\r\n", "\n").split("\n"):
        shown = ""
        for part in line.split("\r"):
            part = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", part)
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return lines


def test_a_terminal_gets_a_bar_with_slabs_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    with no_pause_between_updates(monkeypatch):
        text = on_terminal(told(SCAN))
    for part in ("pass 3:", "% |", "slab 1/4", "slab 3/4", "/4.00M"):
        assert part in text
    assert re.search(r"pass 3:\s+75%", text)


def test_the_bar_leaves_no_trace_beside_the_lines() -> None:
    left = [line for line in screen(on_terminal(told(RUN))) if line]
    assert left == [
        "4 rows on 1 thread",
        plain(pass_line(PASS)).rstrip(),
        "warning: 2 features are constant",
    ]


def test_a_scan_that_fails_half_way_leaves_no_bar() -> None:
    assert not any(screen(on_terminal(told([*SCAN[:3], ScanFinished()]))))


def test_a_bar_whose_end_was_never_told_is_replaced_by_the_next() -> None:
    assert not any(screen(on_terminal(told([*SCAN[:3], *SCAN]))))


def test_elsewhere_there_are_plain_lines_and_no_bar() -> None:
    text = in_file(told(RUN))
    assert text.splitlines() == [
        "4 rows on 1 thread",
        pass_line(PASS),
        "warning: 2 features are constant",
    ]
    assert "\r" not in text
    assert "\x1b" not in text


@pytest.mark.parametrize("where", [on_terminal, in_file])
def test_quiet_shows_warnings_alone(where: Callable[[Callable[[TextIO], None]], str]) -> None:
    assert where(told(RUN, quiet=True)).split("\n") in (
        ["warning: 2 features are constant\r", ""],
        ["warning: 2 features are constant", ""],
    )


def test_events_it_does_not_know_are_passed_over() -> None:
    class Other(Event):
        pass

    assert in_file(told([Other(), ScanFinished(), SlabFinished(3)])) == ""


def test_standard_error_is_where_it_goes_unless_told(capsys: pytest.CaptureFixture[str]) -> None:
    Console()(Note("hello"))
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "hello\n")


def test_lines_appear_at_once() -> None:
    class Unflushed(io.StringIO):
        flushed = ""

        def flush(self) -> None:
            self.flushed = self.getvalue()

    stream = Unflushed()
    Console(stream=stream)(PASS)
    assert stream.flushed == pass_line(PASS) + "\n"


def test_the_line_of_a_pass_has_the_numbers_of_the_history() -> None:
    line = pass_line(PASS)
    for part in (
        "pass   3",
        "loss 0.250000000",
        "gradient 1.50e-07",
        "step 1",
        "2.00 s",
        "4.00 GB/s",
    ):
        assert part in line


@pytest.mark.parametrize(
    ("seconds", "value"), [(0.0, 0.25), (1.0, float("nan")), (1.0, float("inf"))]
)
def test_the_line_of_a_pass_survives_odd_numbers(seconds: float, value: float) -> None:
    assert "pass   1" in pass_line(PassFinished(1, value, value, value, value, seconds, 0))


@pytest.mark.parametrize(
    "character",
    ["\x1b", "\r", "\x07", "\x08", "\x9b", "\x7f", "\x00", "\u202e", "\u200b", "\u2028"],
)
def test_no_character_that_steers_a_terminal_gets_through(character: str) -> None:
    shown = plain(f"a{character}b")
    assert character not in shown
    assert shown.startswith("a\\x")
    assert shown.endswith("b")
    assert character not in in_file(told([Note(f"feature {character}[31m")]))


@pytest.mark.parametrize("text", ["naïve café", "年齢", "two\nlines", "a 😀", "back\\slash", ""])
def test_text_that_can_be_read_is_left_as_it_is(text: str) -> None:
    assert plain(text) == text


def test_rows_are_counted_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def count(quiet: bool) -> Callable[[TextIO], None]:
        def write(stream: TextIO) -> None:
            with RowCounter("synth", 4000, quiet=quiet, stream=stream) as counter:
                for _ in range(4):
                    counter(1000)

        return write

    with no_pause_between_updates(monkeypatch):
        text = on_terminal(count(False))
        assert "synth" in text
        assert "4.00k" in text
        assert not any(screen(text))
        assert on_terminal(count(True)) == in_file(count(False)) == in_file(count(True)) == ""


def test_a_json_document_holds_null_in_the_place_of_what_json_cannot_hold() -> None:
    nan, inf = float("nan"), float("inf")
    assert json.loads(
        json_text({"a": nan, "b": [1.5, (inf, -inf)], "c": {"d": nan, "e": "NaN"}}),
        parse_constant=pytest.fail,
    ) == {"a": None, "b": [1.5, [None, None]], "c": {"d": None, "e": "NaN"}}
    assert json_text({"a": 0.5}) == '{\n  "a": 0.5\n}'
