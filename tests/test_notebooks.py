"""The notebooks run from top to bottom, here on a dataset of a few rows, and are kept with what they have shown."""

import ast
from pathlib import Path

import nbformat
import pytest

from tests.built_dataset import BuiltDataset

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MOST_BYTES = 400_000


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path: Path, built_dataset: BuiltDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In a folder like the repository's root after `make dataset images`. The training takes fewer steps, of a smaller
    batch. No kernel is started: one would import torch again."""
    import matplotlib.pyplot as plt
    from IPython.display import Image

    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "open").symlink_to(built_dataset.data)
    (tmp_path / "manifests").symlink_to(built_dataset.manifest.parent)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    notebook = nbformat.read(path, as_version=4)
    names, shown = {"__name__": "__main__"}, 0
    with plt.rc_context({"backend": "agg"}):
        for cell in notebook.cells:
            if cell.cell_type == "code":
                source = cell.source.replace("steps, batch = 30, 16", "steps, batch = 2, 4")
                shown += isinstance(last_value(source, names), Image) + len(plt.get_fignums())
                plt.close("all")
    assert (names.get("steps") == 2) == path.stem.startswith("3")
    assert shown == pictures(notebook)


def last_value(source: str, names: dict) -> object:
    """Run a cell. The value of its last line, which a notebook shows."""
    *statements, last = ast.parse(source).body
    exec(compile(ast.Module(statements, []), "<cell>", "exec"), names)
    if isinstance(last, ast.Expr):
        return eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)
    exec(compile(ast.Module([last], []), "<cell>", "exec"), names)
    return None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_kept_with_its_outputs_and_small(path: Path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert pictures(notebook) > 0
    assert path.stat().st_size < MOST_BYTES
    text = path.read_text()
    assert '"output_type": "error"' not in text
    assert str(ROOT) not in text  # a path of the machine that it ran on


def pictures(notebook) -> int:
    """How many pictures its outputs hold."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum(any(kind.startswith("image/") for kind in output.get("data", {})) for output in outputs)
