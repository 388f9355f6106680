"""Rows, labels and bodies are what they were when their versions were last raised: see tests/golden.py."""

from pathlib import Path

import pytest

from tests.golden import FILE, PARTS, VERSIONS, Arrays, differences, load


@pytest.fixture(scope="module")
def stored() -> dict[str, Arrays]:
    return load()


@pytest.mark.parametrize("name", PARTS)
def test_nothing_has_changed_without_a_version(name: str, stored: dict[str, Arrays], open_body_dir: Path):
    part = PARTS[name]
    if part.needs is not None and not part.needs.is_file():
        pytest.skip(f"allowed: no {part.needs}")
    if part.version is not None and int(stored["versions"][part.version]) != VERSIONS[part.version]:
        pytest.fail(f"the version of {part.version} was raised: write the golden rows anew, python -m tests.golden")
    changed = differences(stored[name], part.compute(stored["people"], open_body_dir), part.tolerances)
    assert not changed, "raise the version (tests/golden.py says which), then python -m tests.golden"


def test_the_file_is_small_and_holds_what_is_tested(stored: dict[str, Arrays]):
    assert FILE.stat().st_size < 200_000
    assert stored.keys() == {*PARTS, "people", "versions"}
