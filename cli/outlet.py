"""The ways an answer leaves `run`: as it comes, whole at the end, its code alone, or as JSON."""

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

from cli.page import write

FENCED = re.compile(r"^(?P<fence>`{3,}|~{3,})[^\n]*\n(?P<code>.*?)(?:^(?P=fence)|\Z)", re.DOTALL | re.MULTILINE)


class Whole:
    """Implements Page: all of it at the end, or its first code block alone."""

    def __init__(self, extract: bool) -> None:
        self._extract, self._text = extract, ""

    def add(self, text: str) -> None:
        self._text += text

    def end(self) -> None:
        text = code(self._text) if self._extract else self._text
        if text:
            write(text.removesuffix("\n") + "\n")


def write_json(texts: Iterable[str], stream: bool | None, figures: Callable[[], dict[str, Any]]) -> None:
    """One object, of the finished answer; stream: before it a line for each text."""
    for text in texts:
        if stream and text:
            write(json.dumps({"text": text}) + "\n")
    write(json.dumps(figures()) + "\n")


def code(text: str) -> str:
    """What stands in the first fenced block, or all of it where there is none."""
    found = FENCED.search(text)
    return found["code"] if found else text
