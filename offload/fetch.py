"""A file of the hub: gone on with where it was stopped, and in its place only when it is whole and as its checksum says."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from httpx2 import RemoteProtocolError, Response
from huggingface_hub import get_session, hf_hub_url
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

from offload.errors import DamagedFiles
from offload.hub import TIMEOUT, Repo
from offload.hub_errors import explained
from offload.landing import Landing
from offload.patience import Patience

PARTIAL, OUT_OF_RANGE = 206, 416
ATTEMPTS = 2  # at a file whose content differs from its checksum

Told = Callable[[int], None]


class Fetcher:
    """Fetches from one repo. say: told of what goes wrong and may pass. Every method raises OffloadError or OSError."""

    def __init__(self, repo: Repo, say: Callable[[str], None]) -> None:
        self.repo, self.say = repo, say

    def fetch(self, name: str, place: Path, told: Told) -> None:
        """The file at `place`, on the disk when this returns. told: bytes that are here, or, negative, are no more."""
        remote = self.repo.files[name]
        for _ in range(ATTEMPTS):
            with Landing(remote, place, told) as landing:
                self._fill(landing)
                if landing.settled():
                    return
        raise DamagedFiles(f"{name} of {self.repo.name} differs from its checksum, twice.", hint="the same command again")

    def start(self, name: str, count: int) -> bytes:
        """The first bytes of a file, `count` of them where it has as many."""
        patience, count = Patience(self.say), min(count, self.repo.files[name].nbytes)
        while True:
            with explained(self.repo.name, self.repo.revision, patience):
                return self._taken(name, count)

    def _taken(self, name: str, count: int) -> bytes:
        got = bytearray()
        with self._stream(name, f"bytes=0-{count - 1}") as response:
            for block in response.iter_bytes() if _first(response) == 0 else ():
                got += block
                if len(got) >= count:  # which may be the whole file
                    return bytes(got[:count])
        raise RemoteProtocolError("its answer was cut short")

    def _fill(self, landing: Landing) -> None:
        patience = Patience(self.say)
        while not landing.full:
            before = landing.size
            with explained(self.repo.name, self.repo.revision, patience):
                self._receive(landing)
                if landing.size <= before:
                    raise RemoteProtocolError("its answer holds nothing new")
            if landing.size > before:
                patience.renew()

    def _receive(self, landing: Landing) -> None:
        """As much as comes in one answer."""
        with self._stream(landing.remote.name, f"bytes={landing.size}-" if landing.size else None) as response:
            first = _first(response)
            if first != landing.size:  # a server may answer with the whole file, or with what nobody asked for
                landing.restart()
            if first == landing.size:
                for block in response.iter_bytes():  # as it comes: of larger pieces the last would be lost with the connection
                    landing.write(block)

    @contextmanager
    def _stream(self, name: str, span: str | None) -> Iterator[Response]:
        """Redirects are followed, by httpx without the token where they lead to another host."""
        url = hf_hub_url(self.repo.name, name, revision=self.repo.revision)
        headers = build_hf_headers() | {"Accept-Encoding": "identity"} | ({"Range": span} if span else {})
        with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT) as response:
            if response.status_code != OUT_OF_RANGE:
                hf_raise_for_status(response)
            yield response


def _first(response: Response) -> int | None:
    """The offset that an answer begins at; None where it cannot be told."""
    if response.status_code == PARTIAL:
        found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        return int(found[1]) if found else None
    return None if response.status_code == OUT_OF_RANGE else 0
