"""What options take besides text and plain numbers."""

import math
import re
from typing import Any, ClassVar

import click

AUTO = "auto"


class Number(click.FloatRange):
    """A finite number in a range: nan passes every comparison that click makes."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a number.", param, ctx)
        return number


class Nodes(click.ParamType["int | str"]):
    """A number of nodes, or auto."""

    name = "auto|N"
    LARGEST = 1024

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value == AUTO:
            return AUTO
        try:
            nodes = int(value)
        except ValueError:
            self.fail(f"{value!r} is neither auto nor a number.", param, ctx)
        if not 0 <= nodes <= self.LARGEST:
            self.fail(f"{nodes} is not in the range 0<=x<={self.LARGEST}.", param, ctx)
        return nodes


class Kv(click.Choice[str]):
    """The format of keys and values, by name or by bits."""

    BITS: ClassVar = {"4": "int4", "8": "int8", "16": "bf16"}

    def __init__(self) -> None:
        super().__init__([AUTO, "bf16", "int8", "int4"])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return super().convert(self.BITS.get(value, value), param, ctx)


class Size(click.ParamType[int]):
    """Bytes: a number with GiB, GB, MiB, MB or nothing behind it; G is GB. none: what is read as 0."""

    name = "SIZE"
    UNITS: ClassVar = {"": 1, "B": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KB": 10**3, "MB": 10**6, "GB": 10**9,
                       "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}

    def __init__(self, none: tuple[str, ...] = ()) -> None:
        self.none = none

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if value.strip().lower() in self.none:
            return 0
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", value)
        unit = self.UNITS.get(found[2].upper()) if found else None
        size = int(float(found[1]) * unit) if found and unit else 0
        if not size:
            self.fail(f"{value} is no size: a number and GiB, GB, MiB or MB.", param, ctx)
        return size
