"""Which drafts fit a model: those with its tokens, and half its weights at the most."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from cli.codec import Codec
from cli.find import find
from cli.home import folders, ggufs
from cli.ledger import STORE_CONTEXT, demand, draft_bytes, positions, sizes
from cli.models import Model, ModelOptions, opened, parameters
from cli.name import BUNDLED
from offload.errors import OffloadError
from offload.machine import free_memory
from offload.plan import plan
from offload.store import Store
from specexec.engines.families import admit
from specexec.errors import SpecexecError
from specexec.vocabulary import match

SHARE = 0.25  # of memory, that a draft nobody asked for may take


def usual(options: ModelOptions) -> list[str]:
    """The smallest model here that fits the target, beside it too; none where none does, or the target cannot be opened."""
    if options.model == BUNDLED:
        return [BUNDLED]
    with suppress(OffloadError, SpecexecError):  # told by who opens it to run it
        path = find(options.model, "target")
        name = next(drafts(path), None)
        context = options.context or STORE_CONTEXT
        if name and _affords(opened(path), draft_bytes(opened(find(name, "draft")), options, context), options):
            return [name]
    return []


def _affords(target: Model, draft: int, options: ModelOptions) -> bool:
    """Whether there is memory for a draft of so many bytes. Raises TooLittleMemory where there is not."""
    memory = options.ram or free_memory()
    if isinstance(target, Store):
        config = admit(target.config)
        plan(sizes(target), memory, demand(positions(config, options.context, STORE_CONTEXT), options.tree, draft,
                                           place=options.kv_place))
    return draft <= SHARE * memory


def drafts(target: Path) -> Iterator[str]:
    """Names of those that are here, smallest first. Raises what opening the target raises."""
    smaller = sorted(_smaller(parameters(opened(target))))
    vocabulary = Codec(target).vocabulary if smaller else {}
    for _, name, path in smaller:
        with suppress(OffloadError, SpecexecError):
            match(vocabulary, Codec(path).vocabulary)
            yield name


def _smaller(most: int) -> Iterator[tuple[int, str, Path]]:
    """(parameters, name, folder) of every model of at most half of `most` that can be opened."""
    for name, path in ((BUNDLED, find(BUNDLED, "draft")), *((path.name, path) for path in (*folders(), *ggufs()))):
        with suppress(OffloadError, SpecexecError):
            if 2 * (size := parameters(opened(path))) <= most:
                yield size, name, path
