"""The notebooks run from top to bottom, here on a dataset of a few rows, and are kept with what they have shown."""

import os
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from jupyter_client import KernelManager
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient

from tests.built_dataset import BuiltDataset

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MOST_BYTES = 400_000


@pytest.fixture(scope="module")
def kernel(built_dataset: BuiltDataset, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelManager]:
    """One for all notebooks: what they import is loaded once. It runs in a folder like the repository's root after
    `make dataset` and `make images`."""
    root = tmp_path_factory.mktemp("root")
    (root / "data").mkdir()
    (root / "notebooks").mkdir()
    (root / "data" / "open").symlink_to(built_dataset.data)
    (root / "manifests").symlink_to(built_dataset.manifest.parent)
    environment = {name: value for name, value in os.environ.items() if name != "HMR_SKEL_DATA"}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    manager, client = start_new_kernel(startup_timeout=300, cwd=str(root / "notebooks"), env=environment)
    client.stop_channels()
    yield manager
    manager.shutdown_kernel(now=True)
    manager.cleanup_resources()


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path: Path, kernel: KernelManager):
    """From names of its own; the training takes fewer steps, of a smaller batch."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace("steps, batch = 30, 16", "steps, batch = 2, 4")
    assert ("steps, batch = 2, 4" in str(notebook)) == path.stem.startswith("3")
    notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
    client = NotebookClient(notebook, km=kernel, timeout=300)
    try:
        client.execute()
    finally:
        client.kc.stop_channels()
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
