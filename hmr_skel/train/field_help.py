"""Explain the fields of a recipe by the docstrings under them, without importing torch."""

import ast
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
_MODULES = (
    "train/recipes.py", "model/config.py", "data/samples.py", "data/augment.py", "data/selection.py", "train/losses.py",
)  # fmt: skip
"""The files that define the classes of a recipe."""


@dataclass(frozen=True)
class FieldHelp:
    """A field of a recipe."""

    name: str
    """Its path in the recipe: network.vit.depth."""
    default: str
    """Its default, as written in the source."""
    text: str


def recipe_fields() -> list[FieldHelp]:
    """All fields of `Recipe` and of the classes in it, in their order."""
    return list(_fields("Recipe", ""))


def recipe_help(width: int = 100) -> str:
    """All fields as text for a terminal."""
    parts = ["fields of a recipe (--set FIELD=VALUE; defaults are the paper's, --show prints a recipe's own):"]
    for item in recipe_fields():
        default = f" ({item.default})" if item.default else ""
        parts.append(f"  {item.name}{default}")
        parts.append(textwrap.fill(item.text, width, initial_indent=" " * 6, subsequent_indent=" " * 6))
    return "\n".join(parts)


def _fields(class_name: str, prefix: str) -> Iterator[FieldHelp]:
    body = _classes()[class_name].body
    for item, following in zip(body, [*body[1:], None], strict=True):
        if not isinstance(item, ast.AnnAssign):
            continue
        assert isinstance(item.target, ast.Name)
        name, kind = f"{prefix}{item.target.id}", ast.unparse(item.annotation)
        if kind in _classes():
            yield from _fields(kind, f"{name}.")
            continue
        documented = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
        text = str(following.value.value) if documented else ""
        default = "" if item.value is None else ast.unparse(item.value)
        yield FieldHelp(name, default, " ".join(text.split()))


@cache
def _classes() -> dict[str, ast.ClassDef]:
    return {
        node.name: node
        for module in _MODULES
        for node in ast.parse((_PACKAGE / module).read_text()).body
        if isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(d) for d in node.decorator_list)
    }
