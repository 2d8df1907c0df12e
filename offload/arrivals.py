"""The files of a repo on their way to a conversion: where each is or will be, and when it has served."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

from offload.blueprint import Watcher
from offload.errors import DamagedFiles
from offload.fetch import Fetcher, Told
from offload.folder import INDEX, json_object
from offload.header import Spans, announced_header, published_header
from offload.hub import Repo
from offload.landing import here
from offload.writing import BLOCK

START = 2**17  # bytes that hold most headers


class Arrivals:
    """folder: where files wait for their use. keep: in the person's cache, where they stay, instead.

    What is in that cache already is used where it is, and never removed. Every method raises OffloadError or OSError.
    """

    def __init__(self, repo: Repo, folder: Path, keep: bool, watcher: Watcher) -> None:
        self.repo, self.folder, self.keep, self.watcher = repo, folder, keep, watcher
        self._fetcher = Fetcher(repo, watcher.say)
        self._cached = {name: path for name in repo.files if (path := repo.cached(name))}
        self._sound: set[str] = set()
        self._headers: Mapping[str, Spans] = {}

    def path(self, name: str) -> Path:
        return self._cached.get(name) or (self.repo.snapshot if self.keep else self.folder) / name

    def smalls(self) -> list[Path]:
        """Configuration and tokenizer, fetched where they are not here."""
        for name in self.repo.smalls:
            self.fetch(name)
        return [self.path(name) for name in self.repo.smalls if name != INDEX]

    def headers(self) -> Mapping[Path, Spans]:
        """Of every shard, before any of them is fetched: what cannot be converted is told now."""
        index = json_object(self.path(INDEX)) if INDEX in self.repo.files else None
        self._headers = {name: self._header(name) for name in self.repo.shards(index)}
        return {self.path(name): spans for name, spans in self._headers.items()}

    def _header(self, name: str) -> Spans:
        path, nbytes = self.path(name), self.repo.files[name].nbytes
        if path.exists():
            return published_header(path)
        found = announced_header(path, nbytes, self._fetcher.start(name, START))
        if isinstance(found, int):
            found = announced_header(path, nbytes, self._fetcher.start(name, found))
        if isinstance(found, int):
            raise DamagedFiles(f"{name} of {self.repo.name} has no header.", hint="another copy of the model")
        return found

    @property
    def shards(self) -> Mapping[str, int]:
        """Bytes of each, in the order of names."""
        return {name: self.repo.files[name].nbytes for name in self._headers}

    def here(self, name: str) -> int:
        """Bytes of it that need not be fetched."""
        return self.repo.files[name].nbytes if name in self._cached else here(self.path(name))

    def is_ours(self, name: str) -> bool:
        """Whether its bytes are on the disk because of us, and only for a while."""
        return name not in self._cached and not self.keep

    def is_here(self, name: str) -> bool:
        """Whether it was fetched, or looked through, by now."""
        return name in self._sound

    def fetch(self, name: str, told: Told = lambda count: None) -> None:
        """The file is at its path, and as the hub's checksum says. told: bytes that came; negative: that were of no use."""
        if name in self._sound:
            return
        if name in self._cached:
            self._check_cached(name, told)
        else:
            self._fetcher.fetch(name, self.path(name), told)
        if name in self._headers and published_header(self.path(name)) != self._headers[name]:
            raise DamagedFiles(f"{self.path(name)} is not what its first bytes were.", hint="the same command again")
        self._sound.add(name)

    def _check_cached(self, name: str, told: Told) -> None:
        path, digest = self._cached[name], self.repo.files[name].hash()
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
                told(0)
        if digest.hexdigest() != self.repo.files[name].digest:
            raise DamagedFiles(f"{path} differs from its checksum.", hint=f"rm {path.resolve()}, then the same command")

    def free(self, names: Collection[str]) -> None:
        """They have served."""
        for name in filter(self.is_ours, names):
            self._sound.discard(name)
            with suppress(FileNotFoundError):
                self.path(name).unlink()
