"""A model of the hub that is not here, as `plan` sees it: nothing but its configuration is fetched."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from cli.kin import usual_draft
from cli.progress import Progress
from cli.reference import Reference, is_reference, reference
from cli.subject import Subject, configured
from offload.arrivals import Arrivals
from offload.errors import NotHere, OffloadError
from offload.folder import CONFIG, INDEX, json_object
from offload.hub import Repo, look
from offload.hub_errors import check_online
from specexec.errors import SpecexecError

DRAFT_KIND = "int8"  # as pull fetches one


@dataclass(frozen=True)
class Hub:
    """to: the format that is asked for, or None. offline: it may not be asked."""

    to: str | None
    offline: bool
    quiet: bool

    def subject(self, name: str, here: Callable[[str, str | None], Subject]) -> Subject:
        """As `here` knows it, or else as the hub does. Raises what either does."""
        try:
            return here(name, self.to)
        except NotHere:
            if not is_reference(name) or Path(name).exists():
                raise
        return self._remote(reference(name).but(None, self.to, "nf4"))

    def usual_draft(self, target: Subject) -> list[Subject]:
        """What `pull` would offer with a target that is not here: none or one."""
        offered = usual_draft(reference(target.name).repo) if target.fetch else None
        try:
            return [self._remote(Reference(offered, kind=DRAFT_KIND))] if offered else []
        except (OffloadError, SpecexecError) as error:  # nobody asked for this one
            Progress(target.name, self.quiet).say(f"no draft is counted: {error}")
            return []

    def _remote(self, of: Reference) -> Subject:
        check_online(self.offline)
        progress = Progress(of.repo, self.quiet)
        repo = look(of.repo, of.revision, progress.say)
        repo.require(CONFIG)
        with TemporaryDirectory(prefix="specexec-") as folder:
            arrivals = Arrivals(repo, Path(folder), False, progress)
            config, shards = self._read(repo, arrivals)
        found = configured(str(of), config, str(of.kind))
        return replace(found, fetch=sum(repo.files[name].nbytes for name in shards))

    def _read(self, repo: Repo, arrivals: Arrivals) -> tuple[dict[str, object], tuple[str, ...]]:
        """(configuration, names of the files that hold the weights)."""
        for name in {CONFIG, INDEX} & repo.files.keys():
            arrivals.fetch(name)
        index = json_object(arrivals.path(INDEX)) if INDEX in repo.files else None
        return json_object(arrivals.path(CONFIG)), repo.shards(index)
