"""A TOML table whose values are taken out one by one, with checks; what is left over at the end is a mistake."""

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hmr_skel.errors import UserError

_REQUIRED: Any = object()


class TomlTable:
    """Every method takes one key and raises `UserError` naming file, key, what was found and what was expected."""

    def __init__(self, values: Mapping[str, Any], where: str):
        self.where = where
        self._values = values
        self._asked: list[str] = []

    def text(
        self, key: str, default: Any = _REQUIRED, *, pattern: re.Pattern | None = None, example: str = "a text"
    ) -> Any:
        value = self._take(key, default, f'a text, such as "{example}"')
        if value is default:
            return value
        if not isinstance(value, str) or not value.strip():
            self._refuse(key, value, "a text that is not empty")
        if pattern is not None and not pattern.fullmatch(value):
            self._refuse(key, value, f"a text like {pattern.pattern} (for example {example})")
        return value

    def choice(self, key: str, choices: Sequence[str], default: Any = _REQUIRED) -> Any:
        expected = "one of " + ", ".join(f'"{choice}"' for choice in choices)
        value = self._take(key, default, expected)
        if value is not default and value not in choices:
            self._refuse(key, value, expected)
        return value

    def integer(self, key: str, low: int, high: int, default: Any = _REQUIRED) -> Any:
        expected = f"a whole number from {low} to {high}"
        value = self._take(key, default, expected)
        if value is not default and (type(value) is not int or not low <= value <= high):
            self._refuse(key, value, expected)
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self._take(key, default, "true or false")
        if type(value) is not bool:
            self._refuse(key, value, "true or false")
        return value

    def path(self, key: str, *, optional: bool = False) -> Any:
        value = self.text(key, None if optional else _REQUIRED, example="data/labels.npz")
        if value is not None and "://" in value:  # not repeated: it may hold a password
            raise UserError(
                f"{self.where}.{key} is a URI. What a manifest names is read on this machine: copy it to a folder here "
                "(aws s3 cp), and give its path. Only a dataset itself may be in a store (--out)."
            )
        return None if value is None else Path(value).expanduser()

    def texts(self, key: str, default: Sequence[str]) -> Sequence[str]:
        value = self._take(key, default, "a list of texts")
        if value is default:
            return default
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            self._refuse(key, value, "a list of texts")
        return value

    def values(self, key: str, default: Sequence[Any]) -> Sequence[Any]:
        value = self._take(key, default, "a list")
        if value is not default and not isinstance(value, list):
            self._refuse(key, value, "a list")
        return value

    def table(self, key: str, *, optional: bool = False) -> Any:
        value = self._take(key, None if optional else _REQUIRED, f"a table [{key}]")
        if value is None:
            return None
        if not isinstance(value, Mapping):
            self._refuse(key, value, f"a table [{key}]")
        return TomlTable(value, self._at(key))

    def tables(self, key: str) -> list["TomlTable"]:
        value = self._take(key, _REQUIRED, f"tables [[{key}]]")
        if not isinstance(value, list) or not value or not all(isinstance(item, Mapping) for item in value):
            self._refuse(key, value, f"one or more tables [[{key}]]")
        return [TomlTable(item, f"{self._at(key)}[{i}]") for i, item in enumerate(value)]

    def refuse_unknown(self) -> None:
        """To be called last: a key that nobody asked for is a typing mistake."""
        for key in self._values:
            if key not in self._asked:
                near = difflib.get_close_matches(key, self._asked, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                known = ", ".join(sorted(self._asked))
                raise UserError(f"{self._at(key)}: unknown key.{hint} Known keys here: {known}.")

    def _take(self, key: str, default: Any, expected: str) -> Any:
        self._asked.append(key)
        if key in self._values:
            return self._values[key]
        if default is _REQUIRED:
            near = difflib.get_close_matches(key, [k for k in self._values if k not in self._asked], n=1)
            hint = f" Found {near[0]!r}: is that what was meant?" if near else ""
            raise UserError(f"{self._at(key)} is missing. Expected {expected}.{hint}")
        return default

    def _refuse(self, key: str, value: Any, expected: str) -> None:
        raise UserError(f"{self._at(key)} is {value!r}. Expected {expected}.")

    def _at(self, key: str) -> str:
        # "file.toml: key", "file.toml: sources[0] (coco).key"
        return f"{self.where}{'.' if ': ' in self.where else ': '}{key}"
