"""Whoever waits for weights to come, and wants to know how far they are."""

from collections.abc import Callable

Told = Callable[[int], None]
"""told(count): so many more bytes have come."""


def nobody(count: int) -> None:
    """Wants to know nothing."""
