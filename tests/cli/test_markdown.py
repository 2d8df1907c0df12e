"""Markdown as it streams, on a real terminal: the same screen as if it had come at once, nothing written twice."""

import random
import re
import sys
from pathlib import Path

import pytest

from tests.cli.terminal import terminal

TEXT = """# A heading

A paragraph with **bold**, `code`, a_name and a [link](http://example.org), longer than the window is wide, so that it wraps.
A second line of it.

- one
- two with **bold words**
  - nested
- three

```python
def f(x: int) -> int:
    return x + 1  # a comment
```

| a | b |
|---|---|
| 1 | 22 |

1. first
2. second

> quoted <b>tags</b> stay, and 5 * 4 * 3 too

The end: *done* \N{SNOWMAN} \u4e2d\u6587\u5b57\u7b26.
"""
FEED = """
import sys, time
from cli.markdown import MarkdownPage
print("ABOVE")  # a terminal whose first row is cleared may keep it in its history
page, seconds = MarkdownPage(), float(sys.argv[1])
for piece in open(sys.argv[2], newline="").read().split("\\0"):
    page.add(piece)
    time.sleep(seconds)
page.end()
print("THE END")
"""


def shown(folder: Path, pieces: list[str], columns: int, lines: int, seconds: float = 0.0) -> str:
    file = folder / "pieces"
    file.write_text("\0".join(pieces))
    with terminal(folder, sys.executable, "-c", FEED, str(seconds), str(file), columns=columns, lines=lines) as at:
        return at.until("^THE END").split("ABOVE\n")[1].split("THE END")[0]


def cut(text: str, seed: int) -> list[str]:
    chance = random.Random(seed)
    places = sorted(chance.sample(range(len(text)), 60))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


@pytest.mark.parametrize(("columns", "lines"), [(80, 60), (30, 12), (50, 9)])
def test_pieces_end_as_the_whole_does(columns: int, lines: int, tmp_path: Path) -> None:
    whole = shown(tmp_path, [TEXT], columns, lines)
    assert shown(tmp_path, cut(TEXT, columns), columns, lines, 0.002) == whole
    for word in ("A heading", "bold words", "return x + 1", "22", "2 second", "<b>tags</b> stay", "done", "\u5b57\u7b26"):
        assert "".join(whole.split()).count("".join(word.split())) == 1, word
    assert "**" not in whole


def test_a_block_that_is_higher_than_the_window_is_written_once(tmp_path: Path) -> None:
    text = "```\n" + "".join(f"row {number}\n" for number in range(60)) + "```\n"
    seen = shown(tmp_path, cut(text, 3), 40, 10, 0.002)
    assert [int(row) for row in re.findall(r"row (\d+)", seen)] == list(range(60))


def test_what_is_whole_is_never_touched_again(tmp_path: Path) -> None:
    """No control code goes up by more rows than the unfinished block has."""
    shown(tmp_path, cut(TEXT, 5), 30, 60, 0.02)
    ups = [int(rows) for rows in re.findall(r"\x1b\[(\d+)A", (tmp_path / "terminal.log").read_text())]
    assert ups
    assert max(ups) <= 3


def test_a_window_that_becomes_narrower_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "pieces").write_text("\0".join(cut(TEXT, 7)))
    with terminal(tmp_path, sys.executable, "-c", FEED, "0.05", str(tmp_path / "pieces"), columns=80, lines=40) as at:
        at.until("A heading")
        at.resize(34, 40)
        seen = "".join(at.until("^THE END").split())
    for word in ("A heading", "bold words", "return x + 1", "22", "second", "<b>tags</b> stay", "done"):
        assert "".join(word.split()) in seen, word


def test_into_a_pipe_that_wants_colour_there_are_no_cursor_moves(tmp_path: Path) -> None:
    (tmp_path / "pieces").write_text("\0".join(cut(TEXT, 7)))
    feed = (sys.executable, "-c", FEED, "0", str(tmp_path / "pieces"))
    with terminal(tmp_path, "sh", "-c", f'"$@" > {tmp_path / "out"}; echo THE END', "sh", *feed) as at:
        at.until("^THE END")
    out = (tmp_path / "out").read_text()
    assert set(re.findall(r"\x1b\[[0-9;]*([A-Za-z])", out)) == {"m"}
    assert out.count("A heading") == 1


def test_what_scrolled_away_is_not_written_again_when_it_would_change(tmp_path: Path) -> None:
    text = "**" + " ".join(f"word{number}" for number in range(120)) + "** and the end"
    seen = shown(tmp_path, [text[i : i + 20] for i in range(0, len(text), 20)], 40, 10, 0.002)
    assert [int(word) for word in re.findall(r"word(\d+)", seen)] == list(range(120))
