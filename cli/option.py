"""An option: one name in help and errors, many spellings, and where its value comes from."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click
from click.core import ParameterSource

from cli import configuration
from cli.spelling import ALIASES
from specexec.errors import WrongUsage

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
CONTRADICTIONS = (("quiet", "verbose"), ("quiet", "stats"), ("extract", "as_json"))  # by the names of parameters


class Option(click.Option):
    """Command line, then environment, then the configuration file, then its default."""

    def __init__(self, names: Sequence[str], **settings: Any) -> None:
        self.key = next(name for name in names if name.startswith("--")).split("/")[0].removeprefix("--")
        self.aliases = ALIASES.get(f"--{self.key}", ())
        super().__init__([*names, *self.aliases], **settings)

    @property
    def variables(self) -> Sequence[str]:
        """Those that set it, the first one above its aliases'."""
        return [self.envvar] if isinstance(self.envvar, str) else self.envvar or []

    def consume_value(self, ctx: click.Context, opts: Mapping[str, Any]) -> tuple[Any, ParameterSource]:
        value, source = super().consume_value(ctx, opts)
        if source is ParameterSource.DEFAULT and self.variables and not ctx.resilient_parsing:
            setting = settings_of(ctx).get(self.key)
            if setting:
                return setting.value, ParameterSource.DEFAULT_MAP
        return value, source

    def handle_parse_result(
        self, ctx: click.Context, opts: Mapping[str, Any], args: list[str]
    ) -> tuple[Any, list[str]]:
        result = super().handle_parse_result(ctx, opts, args)
        for pair in CONTRADICTIONS:
            if self.name in pair and all(ctx.params.get(name) for name in pair):
                _settle(ctx, pair)
        return result

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        with self._one_name():
            return super().get_help_record(ctx)

    def get_error_hint(self, ctx: click.Context | None) -> str:
        source = ctx.get_parameter_source(self.name) if ctx and self.name else None
        if ctx and source is ParameterSource.DEFAULT_MAP:
            return settings_of(ctx)[self.key].place
        if source is ParameterSource.ENVIRONMENT:
            return self.variable
        with self._one_name():
            return super().get_error_hint(ctx)

    def remedy(self, ctx: click.Context) -> str:
        """What to do about a value that cannot be."""
        source = ctx.get_parameter_source(self.name) if self.name else None
        if source is ParameterSource.DEFAULT_MAP:
            return configuration.EDIT
        if source is ParameterSource.ENVIRONMENT:
            return f"another value, or unset {self.variable}; {ctx.command_path} --help"
        return f"{ctx.command_path} --help"

    @property
    def variable(self) -> str:
        """The one that is set, or the first."""
        return next((name for name in self.variables if os.environ.get(name)), self.variables[0])

    @contextmanager
    def _one_name(self) -> Iterator[None]:
        every = self.opts
        self.opts = [name for name in every if name not in self.aliases]
        yield
        self.opts = every


def option(*names: str, **settings: Any) -> Decorator:
    """A setting: its environment variables are SPECEXEC_ and its long names."""
    key = next(name for name in names if name.startswith("--")).split("/")[0]
    long = [name for name in (key, *ALIASES.get(key, ())) if name.startswith("--")]
    variables = ["SPECEXEC_" + name.removeprefix("--").replace("-", "_").upper() for name in long]
    return click.option(*names, cls=Option, envvar=variables, **settings)


def act(*names: str, **settings: Any) -> Decorator:
    """An option of this one call, which neither environment nor configuration can set."""
    return click.option(*names, cls=Option, **settings)


def known(root: click.Command) -> dict[str, Option]:
    """Every setting of every command, by its key and its aliases."""
    commands = root.commands.values() if isinstance(root, click.Group) else [root]
    found = [option for command in commands for option in command.params if isinstance(option, Option) and option.variables]
    return {name.removeprefix("--"): option for option in reversed(found)
            for name in (f"--{option.key}", *option.aliases) if name.startswith("--")}


def settings_of(ctx: click.Context) -> Mapping[str, configuration.Setting]:
    """The configuration file's, read once a call. Raises WrongUsage."""
    if configuration.__name__ not in ctx.meta:
        names = {name: (option.key, option.multiple) for name, option in known(ctx.find_root().command).items()}
        ctx.meta[configuration.__name__] = configuration.read(names)
    found: Mapping[str, configuration.Setting] = ctx.meta[configuration.__name__]
    return found


def _settle(ctx: click.Context, pair: tuple[str, str]) -> None:
    """The one set closer to the person stands. Raises WrongUsage where both are equally close."""
    sources = [ctx.get_parameter_source(name) or ParameterSource.DEFAULT for name in pair]
    if sources[0] == sources[1]:
        first, second = (_spelled(ctx, name) for name in pair)
        raise WrongUsage(f"{first} and {second} contradict each other.", hint=f"{first} alone, or {second} alone")
    weaker = pair[sources.index(max(sources))]
    ctx.params[weaker] = None if weaker == "stats" else False


def _spelled(ctx: click.Context, name: str) -> str:
    found = next(param for param in ctx.command.params if param.name == name)
    return next(spelling for spelling in found.opts if spelling.startswith("--"))
