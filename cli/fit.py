"""Which drafts fit a model: those with its tokens, and half its weights at the most."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from cli.codec import Codec
from cli.home import folders, ggufs
from cli.models import find, opened, parameters
from cli.name import BUNDLED
from offload.errors import OffloadError
from specexec.errors import SpecexecError
from specexec.vocabulary import match


def drafts(target: Path) -> list[str]:
    """Names of those that are here, smallest first. Raises what opening the target raises."""
    vocabulary, most = Codec(target).vocabulary, parameters(opened(target))
    fitting = [(size, name) for name, size in _sizes(vocabulary) if 2 * size <= most]
    return [name for _, name in sorted(fitting)]


def _sizes(vocabulary: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """(name, parameters) of every model with these tokens that can be opened."""
    for name, path in ((BUNDLED, find(BUNDLED, "draft")), *((path.name, path) for path in (*folders(), *ggufs()))):
        try:
            match(vocabulary, Codec(path).vocabulary)
            yield name, parameters(opened(path))
        except (OffloadError, SpecexecError):
            continue
