"""The lines a person sent, on disk across sessions, for their eyes alone."""

import os
from collections.abc import Callable
from pathlib import Path

from prompt_toolkit.history import FileHistory, History, InMemoryHistory

OWNER = 0o600


class Past(FileHistory):
    """A file of sent lines. A disk that will not take one is told of once; the chat goes on."""

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        super().__init__(str(path))
        self._path, self._say = path, say

    def store_string(self, string: str) -> None:
        try:
            super().store_string(string)
        except OSError as error:
            self._say(f"{self._path} cannot be written: {error.strerror}; this session's lines are not kept")
            self._say = lambda text: None


def history(path: Path | None, say: Callable[[str], None]) -> History:
    """Of the file at `path`, made for its owner alone; of this session only where there is none or it cannot be."""
    if path is None:
        return InMemoryHistory()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, OWNER))
        path.chmod(OWNER)
    except OSError as error:
        say(f"{path} cannot be used: {error.strerror}; lines are not kept")
        return InMemoryHistory()
    return Past(path, say)
