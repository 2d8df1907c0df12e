"""A conversion of a repo whose files are fetched as they are needed, and removed when they have served."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from offload.ahead import Ahead, Stopped
from offload.arrivals import Arrivals
from offload.blueprint import Blueprint, Copy, File
from offload.low_bit import Again, with_copies
from offload.manifest import Identity
from offload.parts import Cast, Part, Quantise, Stored
from offload.published import Goal, drawn
from offload.sheet import Sheet


@dataclass(frozen=True)
class Arriving:
    """Implements File: a sheet made of shards that `bring` fetches when its turn comes. needs: their names."""

    sheet: Sheet
    needs: frozenset[str]
    bring: Callable[["Arriving"], None]

    @property
    def name(self) -> str:
        return self.sheet.name

    @property
    def nbytes(self) -> int:
        return self.sheet.nbytes

    def pieces(self, pool: ThreadPoolExecutor) -> Iterator[memoryview | bytes]:
        self.bring(self)
        yield from self.sheet.pieces(pool)


class Pulled:
    """What a pull is to make. only: these files, None for all. copy: the kind of a low-bit one, or None.

    Raises what `Arrivals` and `drawn` do, before weights come.
    """

    def __init__(
        self, arrivals: Arrivals, goal: Goal, revision: str, only: Collection[str] | None = None, copy: str | None = None
    ) -> None:
        self.arrivals, self.layers, self._made = arrivals, goal.layers, 0
        self._ahead = Ahead(self._fetch)
        repo = arrivals.repo
        kept = [Copy(path, path.stat().st_size) for path in arrivals.smalls() if only is None or path.name in only]
        matrices, drawings = drawn(repo.name, arrivals.headers(), goal)
        sheets = with_copies(drawings, goal.layers, copy) if copy else drawings
        wanted = [Arriving(sheet, _needs(sheet), self._bring) for sheet in sheets if only is None or sheet.name in only]
        self.sheets = ordered(wanted, arrivals.shards)
        identity = Identity(repo.name, revision, repo.fingerprint, goal.kind, goal.layout, goal.layers, goal.tied, copy)
        self.blueprint = Blueprint(identity, matrices, (*kept, *self.sheets), lambda name: None)

    @property
    def nbytes(self) -> int:
        """Of all shards that are needed."""
        return sum(self._wanted(()).values())

    def _wanted(self, done: Collection[str]) -> Mapping[str, int]:
        """Bytes of the shards that files need which are not done."""
        needed = {name for sheet in self.sheets if sheet.name not in done for name in sheet.needs}
        return {name: nbytes for name, nbytes in self.arrivals.shards.items() if name in needed}

    def here(self, done: Collection[str]) -> int:
        """Bytes of `nbytes` that need not be fetched, where these files of the store are made."""
        missing = sum(nbytes - min(nbytes, self.arrivals.here(name)) for name, nbytes in self._wanted(done).items())
        return self.nbytes - missing

    def room(self, done: Collection[str]) -> int:
        """Bytes of disk that are taken more than now, at the most, until the rest is made."""
        sizes = {name: nbytes for name, nbytes in self.arrivals.shards.items() if self.arrivals.here(name) < nbytes}
        held = {name: self.arrivals.here(name) for name in sizes}
        todo = [file for file in self.blueprint.files if file.name not in done]
        return peak(todo, sizes, held, self.arrivals.is_ours)

    def begin(self, done: Collection[str]) -> None:
        """Before files are made of which these are done already."""
        self._made = sum(1 for sheet in self.sheets if sheet.name in done and _is_layer(sheet))

    @property
    def state(self) -> str:
        return f"layer {self._made}/{self.layers} converted"

    def stop(self) -> None:
        """Nothing more is fetched ahead."""
        self._ahead.stop()

    def _bring(self, sheet: Arriving) -> None:
        """All files before it are on the disk: what only they needed is removed first. The next shard follows by itself."""
        at = self.sheets.index(sheet)
        self._made = sum(map(_is_layer, self.sheets[:at]))
        self.arrivals.free(self.arrivals.shards.keys() - _union(later.needs for later in self.sheets[at:]))
        if missing := [name for name in sorted(sheet.needs) if not self.arrivals.is_here(name)]:
            self._ahead.end()
            for name in missing:
                self._fetch(name)
        following = self.sheets[following_at([sheet.needs for sheet in self.sheets], at)]
        self._ahead.begin([name for name in sorted(following.needs) if not self.arrivals.is_here(name)])

    def _fetch(self, name: str) -> None:
        def told(count: int) -> None:
            if self._ahead.stopping.is_set():
                raise Stopped
            self.arrivals.watcher.advance(self.state, count)

        self.arrivals.fetch(name, told)


def _is_layer(sheet: Arriving) -> bool:
    return sheet.name.startswith("layer-")


def _needs(sheet: Sheet) -> frozenset[str]:
    return frozenset(shard for part in sheet.parts for shard in _shards(part))


def _shards(part: Part) -> Iterator[str]:
    """Names of the files that it is made of."""
    source = part.source if isinstance(part, Cast | Quantise) else None
    if isinstance(source, Stored):
        yield source.path.name
    if isinstance(source, Again):
        yield from _shards(source.part)


def ordered(files: Iterable[Arriving], sizes: Mapping[str, int]) -> tuple[Arriving, ...]:
    """What needs the fewest further bytes comes first, so that shards go soon."""
    left, made, here = list(files), list[Arriving](), set[str]()
    while left:
        following = min(left, key=lambda file: sum(sizes[name] for name in file.needs - here))
        left.remove(following)
        made.append(following)
        here |= following.needs
    return tuple(made)


def peak(files: Sequence[File], sizes: Mapping[str, int], held: Mapping[str, int], goes: Callable[[str], bool]) -> int:
    """The most bytes of disk that are taken, beyond now, while files are made one after the other.

    sizes: of the shards that are fetched for them; held: bytes of each that are there now; goes: whether it goes once no file
    needs it any more.
    """
    needs = [file.needs if isinstance(file, Arriving) else frozenset[str]() for file in files]
    most = made = 0
    for at, file in enumerate(files):
        made += file.nbytes
        came, later = _union(needs[: following_at(needs, at) + 1]), _union(needs[at:])
        there = sum(nbytes if name in came else held[name] for name, nbytes in sizes.items() if name in later or not goes(name))
        most = max(most, made + there - sum(held.values()))
    return most


def following_at(needs: Sequence[frozenset[str]], at: int) -> int:
    """Which file is the next to need what none up to the one at `at` does; the last where none does."""
    known = _union(needs[: at + 1])
    return next((later for later in range(at + 1, len(needs)) if needs[later] - known), len(needs) - 1)


def _union(sets: Iterable[frozenset[str]]) -> frozenset[str]:
    return frozenset[str]().union(*sets)
