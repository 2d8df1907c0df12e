"""org/name[@revision][:format], as a person types a model of the hub."""

import re
from dataclasses import dataclass, replace

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from cli.name import BEFORE, FOREIGN, FORMATS, nearest
from specexec.errors import WrongUsage

PARTS = re.compile(r"(?P<repo>[^@:\s/]+/[^@:\s/]+)(?:@(?P<revision>[^@:\s]+))?(?::(?P<kind>[^@:\s/]+))?")
EXAMPLE = "specexec pull Qwen/Qwen2.5-72B-Instruct@main:nf4"


@dataclass(frozen=True)
class Reference:
    """revision: branch, tag or commit, None for the main branch. kind: one of FORMATS, None where it is not said."""

    repo: str
    revision: str | None = None
    kind: str | None = None

    def __str__(self) -> str:
        return self.repo + (f"@{self.revision}" if self.revision else "") + (f":{self.kind}" if self.kind else "")

    @property
    def tail(self) -> str:
        return self.repo.rpartition("/")[2]

    def but(self, revision: str | None, kind: str | None, default: str | None = None) -> "Reference":
        """With what options say beside it, and a default format. Raises WrongUsage where they contradict it."""
        for own, given, option in ((self.revision, revision, "--revision"), (self.kind, kind, "--to")):
            if own and given and own != given:
                raise WrongUsage(f'"{own}" in the name and {option} {given} contradict each other.', hint="one of the two")
        return replace(self, revision=self.revision or revision, kind=self.kind or kind or default)


def is_reference(text: str) -> bool:
    """Whether it could be a model of the hub, rather than a part of a name or a path."""
    try:
        return bool(reference(text))
    except WrongUsage:
        return False


def reference(text: str) -> Reference:
    """Raises WrongUsage, with the spelling that was meant."""
    bare = next((text.removeprefix(before) for before in BEFORE if text.startswith(before)), text).rstrip("/")
    found = PARTS.fullmatch(bare)
    if text.startswith((".", "/", "~")):
        raise WrongUsage(f"{text} is a path; pull fetches from the hub.", hint=f"specexec convert {text}")
    if found is None or not _is_repo(found["repo"]):
        raise WrongUsage(f'"{text}" is no name of a model on the hub.', hint=EXAMPLE)
    repo, revision, kind = found["repo"], found["revision"], found["kind"]
    if revision and FOREIGN.fullmatch(revision):
        what = f"@{revision} would be a revision; a format comes after a colon."
        raise WrongUsage(what, hint=f"specexec pull {repo}:{nearest(revision)}")
    if kind and kind not in FORMATS:
        at = f"{repo}@{revision}" if revision else repo
        hint = f"specexec pull {at}:{nearest(kind)}; a revision is {repo}@REV"
        raise WrongUsage(f'there is no format "{kind}".', hint=hint)
    return Reference(repo, revision, kind)


def _is_repo(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True
