"""The ways an answer leaves `run`: as it comes, whole at the end, its code alone, or as JSON."""

import json
import re
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cli import render

if TYPE_CHECKING:  # torch is loaded when a model is
    from cli.session import Generation

FENCED = re.compile(r"^(?P<fence>`{3,}|~{3,})[^\n]*\n(?P<code>.*?)(?:^(?P=fence)|\Z)", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Outlet:
    """stream: None for the usual, which is text as it comes and one object at the end."""

    as_json: bool = False
    extract: bool = False
    stream: bool | None = None

    def write(self, made: "Generation", texts: Iterable[str], figures: Callable[[], dict[str, Any]]) -> None:
        """figures: of the finished answer. What was accepted is written whatever ends it, but as JSON."""
        if self.as_json:
            self._json(texts, figures)
        elif self.extract or self.stream is False:
            self._whole(made, texts)
        else:
            render.write_answer(made, texts)

    def _json(self, texts: Iterable[str], figures: Callable[[], dict[str, Any]]) -> None:
        for text in texts:
            if self.stream and text:
                render.write(json.dumps({"text": text}) + "\n")
        render.write(json.dumps(figures()) + "\n")

    def _whole(self, made: "Generation", texts: Iterable[str]) -> None:
        try:
            deque(texts, 0)
        finally:
            text = code(made.answer.text) if self.extract else made.answer.text
            if text:
                render.write(text.removesuffix("\n") + "\n")


def code(text: str) -> str:
    """What stands in the first fenced block, or all of it where there is none."""
    found = FENCED.search(text)
    return found["code"] if found else text
