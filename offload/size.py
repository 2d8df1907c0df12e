"""Bytes, as they are told."""


def size(count: int) -> str:
    """Of bytes, rounded up."""
    unit, name = (10**9, "GB") if count >= 10**9 else (10**6, "MB")
    return f"{-(-count * 10 // unit) / 10:.1f} {name}"
