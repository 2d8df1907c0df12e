"""Rates that were measured once and are kept: they change with the machine, not with the day."""

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from offload.errors import OffloadError
from offload.neighbours import Neighbours

Rates = dict[str, float]


class Measured:
    """path: a file, {what: {name: rate}}; what cannot be read of it is measured again. again: all is, once.

    say: told what is about to be measured, and what may have spoiled it.
    """

    def __init__(self, path: Path, again: bool = False, say: Callable[[str], None] = lambda what: None) -> None:
        self.path, self.say = path, say
        self._known = {} if again else _read(path)

    def once(self, what: str, names: Iterable[str], measure: Callable[[], Mapping[str, float]]) -> Rates:
        """What is known of `what`, else what `measure` finds, by these names. Raises OffloadError where it cannot be kept."""
        if self._known.get(what, {}).keys() != set(names):
            self.say(f"measuring {what}")
            with Neighbours() as neighbours:
                self._known[what] = dict(measure())
            if neighbours.busy:
                self.say(f"other programs used {neighbours.cores:.1f} cores meanwhile: --measure again when they are done")
            self._keep()
        return self._known[what]

    def _keep(self) -> None:
        """Beside what others have found meanwhile."""
        whole = json.dumps(_read(self.path) | self._known, indent=1)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _replace(self.path, whole)
        except OSError as error:
            raise OffloadError(f"{self.path} cannot be written: {error.strerror}.",
                               hint="SPECEXEC_HOME=DIR, a folder that may be written to") from error


class Known(Measured):
    """What was measured before, and nothing new: `once` raises LookupError for the rest."""

    def once(self, what: str, names: Iterable[str], measure: Callable[[], Mapping[str, float]]) -> Rates:
        if self._known.get(what, {}).keys() != set(names):
            raise LookupError(what)
        return self._known[what]


def _replace(path: Path, text: str) -> None:
    """Whole or not at all, whoever else writes it."""
    descriptor, temporary = tempfile.mkstemp(prefix=path.name, dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink()
        raise


def _read(path: Path) -> dict[str, Rates]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return {what: rates for what, rates in found.items() if _sound(rates)} if isinstance(found, dict) else {}


def _sound(rates: Any) -> bool:
    return isinstance(rates, dict) and bool(rates) and all(
        type(rate) in (int, float) and math.isfinite(rate) and rate > 0 for rate in rates.values())
