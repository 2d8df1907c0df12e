"""Who may know whom: specexec and offload never import each other, but for the formats; cli composes both."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FORMATS = ("specexec.formats", "specexec.kinds")  # the second is what can be said of them without torch


def imports(package: str) -> Iterator[tuple[Path, str]]:
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((path, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: imports are absolute"
                yield path, node.module or ""


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def test_specexec_knows_neither_offload_nor_cli() -> None:
    for path, name in imports("specexec"):
        if path.name != "__main__.py":
            assert not within(name, "offload"), path
            assert not within(name, "cli"), path


def test_offload_knows_of_specexec_the_formats_alone() -> None:
    for path, name in imports("offload"):
        assert not within(name, "cli"), path
        assert not within(name, "specexec") or any(within(name, form) for form in FORMATS), path


def test_cli_does_no_arithmetic() -> None:
    for path, name in imports("cli"):
        assert not within(name, "numpy"), path


def test_no_python_file_is_a_drawer() -> None:
    for package in ("specexec", "offload", "cli"):
        for path in (ROOT / package).rglob("*.py"):
            assert not any(word in path.stem for word in ("utils", "helper", "manager")), path
            assert len(path.read_text().splitlines()) <= 200, path
