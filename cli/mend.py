"""What is damaged of a pulled model is fetched and converted again."""

from collections.abc import Collection
from pathlib import Path

from cli.progress import Progress
from offload import repair as work
from offload.arrivals import Arrivals
from offload.convert import two_lines
from offload.errors import Refused
from offload.hub import look
from offload.journal import Partial
from offload.lock import locked
from offload.manifest import Identity
from offload.published import Goal
from offload.pulled import Pulled
from offload.tally import Tally
from offload.verify import remedy


def mend(path: Path, of: Identity, wrong: Collection[str], progress: Progress) -> None:
    """Raises OffloadError, Refused where the store was not pulled."""
    if of.revision is None:
        raise Refused(f"{path.name} was not fetched from the hub, but made of {of.source}.", hint=remedy(path, of))
    partial, repo = Partial(path), look(of.source, of.revision, progress.say)
    with two_lines(path), locked(path):
        partial.open()
        goal = Goal(of.quantisation, of.layout, of.layers, of.tied)
        pulled = Pulled(Arrivals(repo, partial.source, False, progress), goal, of.revision, wrong, of.copy)
        try:
            work.repair(path, pulled.blueprint, Tally(pulled, progress))
        finally:
            pulled.stop()
        partial.remove()
