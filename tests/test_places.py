"""Where data go when nobody says where, and the manifests that every folder has."""

import os
from pathlib import Path

import pytest

from hmr_skel import places
from hmr_skel.data.manifest import load_manifest
from hmr_skel.errors import UserError
from hmr_skel.places import MANIFESTS, data_folder, manifest_file

ROOT = Path(__file__).parents[1]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch) -> Path:
    """The package as a wheel installs it, without a clone around it; the working directory is empty."""
    monkeypatch.setattr(places, "__file__", str(tmp_path / "site-packages" / "hmr_skel" / "places.py"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("XDG_DATA_HOME", "HMR_SKEL_DATA"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def test_data_go_to_the_variable_or_the_clone_or_the_user(installed: Path, monkeypatch):
    """Wherever one stands."""
    users = data_folder()
    assert users.is_relative_to(installed / "home")
    assert users.name == "hmr-skel"
    open_set = load_manifest(places.DEFAULT_MANIFEST)
    assert open_set.sources[0].file == users / "open" / "labels.npz"
    assert open_set.body_models.path == users / "open" / "body_models"

    clone = installed / "site-packages"
    clone.mkdir()
    (clone / "pyproject.toml").touch()
    assert data_folder() == clone / "data"
    monkeypatch.chdir(clone)
    assert data_folder() == Path("data")

    monkeypatch.setenv("HMR_SKEL_DATA", "/elsewhere")
    assert data_folder() == Path("/elsewhere")
    assert load_manifest(places.DEFAULT_MANIFEST).sources[0].file == Path("/elsewhere/open/labels.npz")
    assert os.listdir(installed / "work") == []


def test_manifests_of_the_package_are_found_from_any_folder(installed: Path):
    assert manifest_file("manifests/open.toml") == MANIFESTS / "open.toml"
    for missing in ("open.toml", "manifests/none.toml", "other/manifests/open.toml"):
        assert manifest_file(missing) == Path(missing)
        with pytest.raises(UserError, match=r"no manifest .*always available: manifests/hmr-skel\.toml, manifests/o"):
            load_manifest(missing)
    own = Path("manifests/open.toml")
    own.parent.mkdir()
    own.write_text((MANIFESTS / "open.toml").read_text().replace('name = "open"', 'name = "own"', 1))
    assert load_manifest("manifests/open.toml").name == "own"


def test_a_clone_names_the_files_that_the_wheel_has():
    assert {path.name for path in (ROOT / "manifests").iterdir()} == {path.name for path in MANIFESTS.iterdir()}
    assert (ROOT / "manifests").resolve() == MANIFESTS
