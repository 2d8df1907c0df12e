"""The line of a long pass, by the passes of an engine that is played: chunks larger than a tree need a larger model."""

import re
import sys
from types import SimpleNamespace
from typing import cast

import pytest

from cli.session import Generation, Session
from cli.status import Status
from specexec.roles import Limits
from tests.cli.test_loading import Terminal

LAYERS = 10


def told(chunk: int, missing: int, monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], str]:
    """(how many tokens were read, each time that was told; what is left on the screen) of a prompt that is read."""
    now, screen = [0.0], Terminal()
    monkeypatch.setattr("cli.status.time.monotonic", lambda: now[0])
    monkeypatch.setattr(sys, "stderr", screen)
    target = SimpleNamespace(limits=Limits(8192, 256, 100, chunk), passes=0, missing=missing)
    made = SimpleNamespace(report=SimpleNamespace(passes=0, tokens_per_pass=None))
    status = Status(cast(Session, SimpleNamespace(target=target, layers=LAYERS)), cast(Generation, made))
    for _ in range(-(-missing // max(256, chunk))):
        for _ in range(LAYERS):
            now[0] += 1.0
            status.beat()
        target.passes += 1
    list(status.cleared(["text"]))
    read = [int(count.replace(",", "")) for count in re.findall(r"reading ([\d,]+) of", screen.getvalue())]
    return read, screen.getvalue().rpartition("\x1b[J")[2]


@pytest.mark.parametrize(("chunk", "missing"), [(0, 700), (1024, 3000), (1024, 1025)])
def test_what_is_read_grows_chunk_by_chunk_to_all_of_it(
    chunk: int, missing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, left = told(chunk, missing, monkeypatch)
    assert read == sorted(read)
    assert missing - max(256, chunk) / LAYERS - 1 <= read[-1] <= missing
    assert read[LAYERS - 1] == max(256, chunk)  # as the second chunk begins; the first second tells nothing
    assert f"{missing:,} tokens read in " in left


def test_what_one_pass_reads_leaves_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    read, left = told(1024, 1000, monkeypatch)
    assert read
    assert left == ""
