"""Networks of ours and the published one, by their files."""

import pytest
import torch

from hmr_skel.errors import UserError
from hmr_skel.model import checkpoint
from hmr_skel.model.checkpoint import PUBLISHED, NetworkInfo, load_any_network, save_network
from hmr_skel.model.network import Network
from tests.train.small_run import small_recipe


def test_ours(tmp_path):
    network = Network(small_recipe().network)
    save_network(tmp_path / "n.safetensors", network, NetworkInfo(skel_gender="female", recipe="tiny"))
    loaded, info = load_any_network(tmp_path / "n.safetensors")
    assert (info.recipe, info.skel_gender, loaded.training) == ("tiny", "female", False)
    with pytest.raises(UserError, match="trained on the female SKEL"):
        load_any_network(tmp_path / "n.safetensors", "male")


def test_the_published_one(tmp_path, monkeypatch):
    """Its file has 680 million weights: here a small network stands for what the reader makes of it."""
    small = Network(small_recipe().network)
    monkeypatch.setattr(checkpoint, "load_skel_cf", lambda path: small)
    loaded, info = load_any_network(tmp_path / "best.pth", "male")
    assert loaded is small
    assert not loaded.training
    assert (info.recipe, info.skel_gender) == (PUBLISHED, "male")
    with pytest.raises(UserError, match="SKEL-CF was trained on the male SKEL, the female one is asked for"):
        load_any_network(tmp_path / "best.pth", "female")


def test_another_file_of_torch_is_refused(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "best.pth")
    with pytest.raises(UserError, match=r"no SKEL-CF checkpoint: expected an entry 'ema_model'"):
        load_any_network(tmp_path / "best.pth")
    with pytest.raises(UserError, match=r"none\.pth"):
        load_any_network(tmp_path / "none.pth")
