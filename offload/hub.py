"""What a repo of the hub holds, and which of it is needed; nothing of it is believed to be a path."""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, ModelInfo, constants, try_to_load_from_cache

from offload.blueprint import COPIED
from offload.errors import DamagedFiles, Refused
from offload.folder import INDEX, PICKLES, SINGLE
from offload.hub_errors import Unreachable, explained, host
from offload.patience import BRIEF, Patience

TIMEOUT = 30.0  # seconds for an answer, and between two pieces of one
COMMIT = re.compile(r"[0-9a-f]{40}")
SHARD = re.compile(r"[\w.-]+\.safetensors")  # no name that leaves its folder


@dataclass(frozen=True)
class Remote:
    """A file of a repo. digest: hexadecimal, sha256 of the content for large files, git's sha1 for the others."""

    name: str
    nbytes: int
    digest: str

    def hash(self) -> "hashlib._Hash":
        """To be fed with the content, then to be compared with `digest`."""
        return hashlib.sha256() if len(self.digest) == 64 else hashlib.sha1(b"blob %d\0" % self.nbytes)


@dataclass(frozen=True)
class Repo:
    """revision: the commit. files: those that are needed or may be, by name, none of them in a folder."""

    name: str
    revision: str
    files: Mapping[str, Remote]

    @property
    def fingerprint(self) -> str:
        """The same for two commits that differ in other files."""
        facts = [(file.name, file.nbytes, file.digest) for _, file in sorted(self.files.items())]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    @property
    def smalls(self) -> tuple[str, ...]:
        """Configuration and tokenizer, and which shard holds what."""
        return tuple(name for name in (*COPIED, INDEX) if name in self.files)

    def cached(self, name: str) -> Path | None:
        """The file in the person's own cache, as other programs left it: its content is still to be compared."""
        found = try_to_load_from_cache(self.name, name, constants.HF_HUB_CACHE, self.revision)
        path = Path(found) if isinstance(found, str) else None
        return path if path and path.stat().st_size == self.files[name].nbytes else None

    @property
    def snapshot(self) -> Path:
        """The folder of the person's cache where every program looks for this commit."""
        return Path(constants.HF_HUB_CACHE) / f"models--{self.name.replace('/', '--')}" / "snapshots" / self.revision

    def require(self, *names: str) -> None:
        """Raises Refused where one of them is not there."""
        if missing := [name for name in names if name not in self.files]:
            raise Refused(f"{self.name} has no {missing[0]}.", hint="a repo of a language model, as it was published")

    def shards(self, index: Mapping[str, object] | None) -> tuple[str, ...]:
        """The files that hold the weights. index: the content of INDEX. Raises Refused or DamagedFiles."""
        if SINGLE in self.files:
            return (SINGLE,)
        names = index.get("weight_map") if index else None
        if not isinstance(names, dict) or not names:
            raise DamagedFiles(f"{INDEX} of {self.name} names no weights.", hint="another copy of the model")
        for name in sorted({str(name) for name in names.values()}):
            if name not in self.files or not SHARD.fullmatch(name):
                raise Refused(f"{INDEX} of {self.name} names {name!r}, which is no file of it.",
                              hint="another copy of the model")
        return tuple(sorted(set(names.values())))


def look(name: str, revision: str | None, say: Callable[[str], None] = lambda text: None) -> Repo:
    """Asks the hub. revision: a branch, tag or commit; None for the main branch. Raises OffloadError."""
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # what matters is said in our words
    try:
        found = _asked(name, revision, Patience(say, BRIEF))
    except (ValueError, KeyError, TypeError) as error:  # a page of somebody's in between
        raise Unreachable(f"{host()} does not answer as the hub does.", hint="the same command on another network") from error
    listed = [Remote(s.rfilename, s.size or 0, s.lfs.sha256 if s.lfs else s.blob_id or "") for s in found.siblings or ()]
    if not COMMIT.fullmatch(found.sha or ""):
        raise DamagedFiles(f"the hub names no commit of {name}.", hint="the same command later")
    _refuse(name, {file.name for file in listed})
    needed = {file.name: file for file in listed if file.name in (*COPIED, INDEX) or SHARD.fullmatch(file.name)}
    return Repo(name, str(found.sha), needed)


def _asked(name: str, revision: str | None, patience: Patience) -> ModelInfo:
    while True:
        with explained(name, revision, patience):
            return HfApi(endpoint=constants.ENDPOINT).model_info(name, revision=revision, files_metadata=True, timeout=TIMEOUT)


def _refuse(name: str, files: set[str]) -> None:
    """Raises Refused for a repo whose weights are in no safetensors files."""
    if {SINGLE, INDEX} & files:
        return
    paths = sorted(map(Path, files))
    if pickled := next((path for pattern in PICKLES for path in paths if path.match(pattern)), None):
        raise Refused(f"{name} has its weights in {pickled.name}, a pickle, which can run any code when it is read.",
                      hint="a copy of the model in safetensors")
    if gguf := next((path for path in paths if path.suffix == ".gguf"), None):
        raise Refused(f"{name} has its weights in {gguf.name}, which is for llama.cpp.", hint="the repo that it was made from")
    raise Refused(f"{name} has neither {SINGLE} nor {INDEX}.", hint="a repo of a language model in safetensors")
