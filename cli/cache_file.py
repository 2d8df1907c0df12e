"""--cache: a file that keeps the keys and values of what was read, for another sitting that begins with the same."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from cli.models import Model
from offload import sealed
from offload.errors import DamagedFiles, NotHere, OffloadError, Refused
from offload.gguf import Gguf
from offload.sealed import Facts, Sealed
from offload.size import size
from offload.writing import FULL, NoRoom
from specexec.engines.weights_engine import WeightsEngine
from specexec.errors import Interrupted, WrongUsage
from specexec.kv.backing import Offloaded
from specexec.kv.kept import Kept
from specexec.prefix import common

WORTH = 256  # tokens that are worth reading a file, or writing one
ELSEWHERE = "--cache FILE in another folder"


def check(path: Path, model: Model) -> None:
    """Before anything is loaded. Raises WrongUsage, NotHere and Refused for what cannot have such a file."""
    if isinstance(model, Gguf):
        what = "--cache: what llama.cpp has read is kept in no file."
        raise WrongUsage(what, hint=f"specexec convert {model.path}, which can; or the same without --cache")
    if not path.parent.is_dir():
        raise NotHere(f"--cache {path}: there is no folder {path.parent}.", hint=ELSEWHERE)
    if not os.access(path.parent, os.W_OK) or (path.exists() and not path.is_file()):
        raise Refused(f"--cache {path} cannot be written.", hint=ELSEWHERE)
    try:
        sealed.opened(path)
    except DamagedFiles:
        return  # it is written anew
    except OSError as error:
        raise Refused(f"--cache {path} cannot be read: {error.strerror}.", hint=ELSEWHERE) from error


class CacheFile:
    """Of one target. made: what its rows depend on. say: told a line. stop: whether to leave off what takes long."""

    def __init__(self, path: Path, target: object, made: Facts, say: Callable[[str], None], stop: Callable[[], bool]) -> None:
        """Raises WrongUsage for an engine whose rows no file holds."""
        if isinstance(target, WeightsEngine) and isinstance(target.cache, Offloaded):
            what = "--cache: keys and values that are elsewhere are kept in no file."
            raise WrongUsage(what, hint="--kv-place device, or the same without --cache")
        if not isinstance(target, WeightsEngine) or not isinstance(target.cache, Kept):
            raise WrongUsage("--cache: this engine's keys and values are kept in no file.", hint="the same without --cache")
        self.path, self.target, self.rows, self.made = path, target, target.cache, {**made, "kv": target.cache.kind}
        self._say, self._stop = say, stop
        self._file: Sealed | None = None
        self._read = 0  # tokens of prompts, since it was written
        self.remark = self._opened()

    def begin(self, prompt: Sequence[int]) -> None:
        """Before a prompt is read: what memory lacks of it comes from the file, where that is worth it."""
        self.target.sync(prompt[:-1])
        here = len(prompt) - 1 - self.target.missing
        if self._file and (alike := common(self._file.facts["tokens"], prompt[:-1])) >= here + WORTH:
            self._say(f"{alike:,} tokens come from {self.path.name}")
            self._take(self._file)
        self._read += self.target.missing

    def keep(self) -> None:
        """When a prompt has been read. What goes wrong is told; the answer goes on."""
        from cli.main import explain

        if self._read < WORTH:
            return
        self._read = 0
        self.target.settle()
        try:
            self._write()
        except Interrupted:
            self._say(f"{self.path.name} stays as it was")
        except OSError as error:
            explain(self._failed(error))
        except OffloadError as error:
            explain(error)

    def _opened(self) -> str:
        """What the person should know of it at the beginning."""
        anew = f"{self.path.name} is not used and will be written anew: "
        try:
            found = sealed.opened(self.path)
        except OffloadError as error:
            return anew + str(error)
        if found is None:
            return f"{self.path.name} will keep what is read of a question, from {WORTH} tokens on"
        if other := self._difference(found.facts):
            return anew + other
        self._file = found
        return f"{self.path.name} keeps {len(found.facts['tokens']):,} tokens, which a question that begins so need not read"

    def _difference(self, facts: Facts) -> str | None:
        if lacking := {*self.made, "form", "tokens"} - facts.keys():
            return f"it does not say {', '.join(sorted(lacking))}"
        if len(facts["tokens"]) > self.target.limits.context:
            return f"it keeps {len(facts['tokens']):,} tokens, and the context is {self.target.limits.context:,}"
        name = next((name for name, ours in self.made.items() if facts[name] != ours), None)
        return name and f"it was made with {name} {facts[name]}, and this is {self.made[name]}"

    def _take(self, found: Sealed) -> None:
        """What is wrong with the file is no reason not to answer."""
        tokens: list[int] = found.facts["tokens"]
        try:
            self.rows.restore(tokens, found.facts["form"], lambda pieces: found.read(self._filled(pieces)))
        except (DamagedFiles, OSError, ValueError, KeyError) as error:
            self._file = None
            self._say(f"{self.path.name} is not used and will be written anew: {error}")

    def _write(self) -> None:
        tokens, pieces = list(self.rows.tokens), self.rows.pieces()
        facts: dict[str, Any] = {**self.made, "form": self.rows.form(), "tokens": tokens}
        nbytes = sum(piece.nbytes for piece in self.rows.pieces())
        self._say(f"keeping {len(tokens):,} tokens in {self.path.name}, {size(nbytes)}")
        sealed.write(self.path, facts, (piece.cpu().numpy().data for piece in self._going_on(pieces)))
        self._file = sealed.opened(self.path)

    def _filled(self, pieces: Iterable[torch.Tensor]) -> Iterator[memoryview]:
        """A place for each that a file can be read into; what was, is where the piece lies when the next is asked for."""
        for piece in self._going_on(pieces):
            here = piece.cpu()  # itself, where it lies there
            yield here.numpy().data
            if here is not piece:
                piece.copy_(here)

    def _going_on(self, pieces: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        for piece in pieces:
            if self._stop():
                raise Interrupted
            yield piece

    def _failed(self, error: OSError) -> OffloadError:
        if error.errno in FULL:
            what = f"the disk is full: {self.path} is not kept; nothing else is lost."
            return NoRoom(what, hint="--cache FILE on another disk")
        return Refused(f"{self.path} cannot be written: {error.strerror}.", hint=ELSEWHERE)
