"""The notebooks run from top to bottom, here on a dataset of a few rows, and are kept with what they have shown."""

import shutil
from collections.abc import Generator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from flows.shard import build_shard
from hmr_skel.data.manifest import load_manifest
from hmr_skel.open_data.images import make_images
from hmr_skel.open_data.labels import make_labels

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
ROWS, ROWS_PER_SHARD = 48, 16
MOST_BYTES = 400_000


@pytest.fixture(scope="module")
def small_root(open_body_dir: Path, tmp_path_factory) -> Generator[Path]:
    """A folder like the repository's root after `make dataset` and `make images`, with few rows."""
    root = tmp_path_factory.mktemp("root")
    data = root / "data" / "open"
    data.mkdir(parents=True)
    (data / "body_models").symlink_to(open_body_dir)
    manifest = (ROOT / "manifests" / "open.toml").read_text()
    for name, before, after in (
        ("rows", 6144, ROWS),
        ("rows_per_shard", 512, ROWS_PER_SHARD),
        ("held_out_shards", 2, 1),
    ):
        assert f"{name} = {before}" in manifest
        manifest = manifest.replace(f"{name} = {before}", f"{name} = {after}")
    (root / "manifests").mkdir()
    (root / "manifests" / "open.toml").write_text(manifest)
    make_labels(data / "labels.npz", ROWS, 0, open_body_dir)
    make_images(data / "labels.npz", data / "images", open_body_dir, workers=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        loaded = load_manifest("manifests/open.toml")
        for shard in range(ROWS // ROWS_PER_SHARD):
            build_shard(loaded, shard, data)
    yield root
    shutil.rmtree(root)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path: Path, small_root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HMR_SKEL_DATA", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    folder = small_root / "notebooks"
    folder.mkdir(exist_ok=True)
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
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
