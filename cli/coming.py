"""One model on its way from the hub into the store."""

import shutil
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

from cli.codec import Codec
from cli.convert import check_copy, chosen_layout
from cli.home import placed
from cli.progress import Progress, duration
from cli.prospect import prospect
from cli.reference import Reference
from cli.subject import configured
from offload import convert as work
from offload.arrivals import Arrivals
from offload.convert import two_lines
from offload.errors import Refused
from offload.folder import CONFIG, json_object
from offload.hub import look
from offload.journal import Partial
from offload.lock import locked
from offload.manifest import Identity, is_store, read_manifest
from offload.published import Goal
from offload.pulled import Pulled
from offload.size import size
from offload.tally import Tally
from offload.writing import NoRoom
from specexec.engines.families import admit

TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Manner:
    """keep: what was fetched stays in the person's cache. dry: nothing stays. yes: to every question."""

    keep: bool
    dry: bool
    yes: bool
    quiet: bool


class Coming:
    """of: with its format. name: in the store, None for the usual one. copy: the kind of a low-bit one, or None.

    Every method raises OffloadError or SpecexecError.
    """

    def __init__(self, of: Reference, name: str | None, manner: Manner, copy: str | None = None) -> None:
        self.kind, self.manner, self.copy = of.kind or "nf4", manner, copy
        self.out = placed(name or f"{of.tail}-{self.kind}").resolve()
        self.progress = Progress(self.out.name, manner.quiet)
        self.repo = look(of.repo, of.revision, self.progress.say)
        self.partial = Partial(self.out)
        self.is_there = is_store(self.out) and self._is(read_manifest(self.out).identity)

    def _is(self, found: Identity) -> bool:
        """Raises Refused where it is another model, or this one without a copy."""
        if (found.source, found.quantisation, found.fingerprint) == (self.repo.name, self.kind, self.repo.fingerprint):
            if self.copy not in (None, found.copy):
                raise Refused(f"{self.out.name} is there already, without a copy.",
                              hint=f"specexec convert {self.out.name} --copy {self.copy}")
            return True
        commit = f" (commit {found.revision[:7]})" if found.revision else ""
        raise Refused(f"{self.out.name} is there already: {found.source}{commit} as {found.quantisation}.",
                      hint=f"--name NAME, or specexec rm {self.out.name} and the same command")

    def stage(self, stack: ExitStack) -> None:
        """Fetches what is small, and decides what is to be made; the model is locked until the stack ends."""
        if self.is_there:
            return
        with two_lines(self.out):
            folder = self._folder(stack)
            self.pulled = self._drawn(Arrivals(self.repo, folder, self.manner.keep and not self.manner.dry, self.progress))

    def _folder(self, stack: ExitStack) -> Path:
        if self.manner.dry:
            return Path(stack.enter_context(TemporaryDirectory(prefix="specexec-")))
        stack.enter_context(locked(self.out))
        self.partial.open()
        stack.callback(self.partial.forget)
        return self.partial.source

    def _drawn(self, arrivals: Arrivals) -> Pulled:
        self.repo.require(CONFIG, TOKENIZER)
        arrivals.smalls()
        config = admit(json_object(arrivals.path(CONFIG)))
        layout = None if self.kind == "bf16" else chosen_layout("auto")
        check_copy(self.copy, layout)
        goal = Goal(self.kind, layout, config.num_hidden_layers, config.tie_word_embeddings)
        return Pulled(arrivals, goal, self._revision(), copy=self.copy)

    def _revision(self) -> str:
        """Of an earlier commit where that one was begun and all that is needed is the same."""
        begun = self.partial.read()[0]
        if begun and begun.revision and (begun.source, begun.fingerprint) == (self.repo.name, self.repo.fingerprint):
            return begun.revision
        return self.repo.revision

    @cached_property
    def done(self) -> frozenset[str]:
        """Files of the store that an earlier pull made."""
        begun, entries = self.partial.read()
        return frozenset(entries) if begun == self.pulled.blueprint.identity else frozenset()

    def size(self) -> str:
        """A line: what comes, what stays, and the disk it takes. Raises NoRoom."""
        arrivals, total = self.pulled.arrivals, self.pulled.nbytes
        fetch, room, free = total - self.pulled.here(self.done), self.pulled.room(self.done), _free(self.out)
        if room > free:
            raise NoRoom(f"{self.repo.name} needs {size(room)} of disk at {self.out.parent}, and {size(free)} is free.",
                         hint=f"free {size(room - free)}, or SPECEXEC_HOME=DIR on another disk")
        kept = size(self.pulled.blueprint.nbytes) + f" kept as {self.kind}" + (", and the source" if arrivals.keep else "")
        disk = f"{size(room)} of disk needed, {size(free)} free"
        return f"{self.repo.name}@{self.repo.revision[:7]}: {size(fetch)} to fetch, {kept}; {disk}"

    def prospect(self) -> str:
        """Raises TooLittleMemory where it cannot run here."""
        raw = json_object(self.pulled.arrivals.path(CONFIG))
        return prospect(configured(self.repo.name, raw, self.kind))

    def files(self) -> list[tuple[str, int]]:
        """What is fetched, and its bytes."""
        if self.is_there:
            return []
        names = (*self.repo.smalls, *self.pulled.arrivals.shards)
        return [(name, self.repo.files[name].nbytes) for name in names]

    def codec(self) -> Codec:
        return Codec(self.out if self.is_there else self.pulled.arrivals.path(TOKENIZER).parent)

    def make(self) -> None:
        """Fetches and converts, unless it is there."""
        if self.is_there:
            self.progress.say(f"{self.out.name} is there already")
            return
        began, blueprint = time.monotonic(), self.pulled.blueprint
        try:
            with two_lines(self.out, blueprint.nbytes):
                work.make(blueprint, self.out, Tally(self.pulled, self.progress))
        finally:
            self.pulled.stop()
            self.progress.clear()
        self.progress.say(f"{self.out.name}: {size(blueprint.nbytes)} in {duration(time.monotonic() - began)}")


def _free(path: Path) -> int:
    there = next(folder for folder in path.parents if folder.exists())
    return shutil.disk_usage(there).free
