"""Who reads our output."""


class ReaderGone(Exception):
    """Nobody reads standard output any more."""
