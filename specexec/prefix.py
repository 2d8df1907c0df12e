"""What two sequences begin with."""

from collections.abc import Sequence


def common(a: Sequence[object], b: Sequence[object]) -> int:
    """The length of their longest common prefix."""
    if a == b[: len(a)]:
        return len(a)
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
