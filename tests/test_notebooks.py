"""The notebooks run from top to bottom, here on a dataset of a few rows, and are kept with what they have shown."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.built_dataset import BuiltDataset

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MOST_BYTES = 400_000


@pytest.fixture
def root(built_dataset: BuiltDataset, tmp_path: Path) -> Path:
    """A folder like the repository's root after `make dataset` and `make images`; what notebooks write is its own."""
    (tmp_path / "data").mkdir()
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "data" / "open").symlink_to(built_dataset.data)
    (tmp_path / "manifests").symlink_to(built_dataset.manifest.parent)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path: Path, root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HMR_SKEL_DATA", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(root / "notebooks")}}).execute()
    assert pictures(notebook) == pictures(nbformat.read(path, as_version=4))


def test_there_are_some():
    assert len(NOTEBOOKS) >= 3


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
