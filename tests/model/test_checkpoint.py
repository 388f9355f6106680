"""Our own files: what goes in comes out, and what does not belong is refused."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from hmr_skel.errors import UserError
from hmr_skel.model import checkpoint
from hmr_skel.model.checkpoint import PUBLISHED, NetworkInfo, load_any_network, load_mean, load_network, save_network
from hmr_skel.model.network import Network

INFO = NetworkInfo(skel_gender="female", recipe="tiny", details={"step": 12, "source": "open"})


@pytest.mark.parametrize("switches", [{"camera": False, "coarse": False, "refine": False}, {"looped": True}])
def test_round_trip(tmp_path, small_network, geometry, switches):
    network = small_network(**switches)
    save_network(tmp_path / "run" / "net.safetensors", network, INFO)
    again, info = load_network(tmp_path / "run" / "net.safetensors", skel_gender="female")
    assert info == INFO
    assert again.config == network.config
    assert not again.training
    images, where = torch.randn(2, 3, 256, 192), geometry(2)
    assert torch.equal(again(images, where).final.rep, network.eval()(images, where).final.rep)
    assert all(parameter.requires_grad for parameter in again.parameters())
    about = json.loads((tmp_path / "run" / "net.json").read_text())  # for people
    assert (about["skel_gender"], about["recipe"], about["network"]["vit"]["width"]) == ("female", "tiny", 32)


def test_equal_networks_give_equal_bytes(tmp_path, small_network):
    for name in ("a", "b"):
        save_network(tmp_path / f"{name}.safetensors", small_network(seed=3), INFO)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_a_failed_write_leaves_the_old_file(tmp_path, small_network, monkeypatch):
    path = tmp_path / "net.safetensors"
    save_network(path, small_network(), INFO)
    before = path.read_bytes()

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hmr_skel.model.checkpoint.os.replace", full)
    with pytest.raises(UserError, match=r"cannot write .*net\.safetensors.*No space left"):
        save_network(path, small_network(seed=1), INFO)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_a_description_that_does_not_fit(tmp_path, small_network):
    path = tmp_path / "net.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="not a network of hmr-skel"):
        load_network(path)
    save_network(path, small_network(), INFO)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file(small_network(looped=True).state_dict(), path, metadata=metadata)
    with pytest.raises(UserError, match=r"missing \(decoder\.layers\.1"):
        load_network(path)
    about = json.loads(metadata["about"])
    more = {"network": about["network"] | {"new_switch": True}}
    for changed, says in ((about | more, "new_switch"), ({k: about[k] for k in about if k != "recipe"}, "recipe")):
        save_file(small_network().state_dict(), path, metadata={"about": json.dumps(changed)})
        with pytest.raises(UserError, match=f"does not fit this version.*{says}"):
            load_network(path)


def test_the_mean_beside_the_body_models(open_body_dir, small_config, tmp_path):
    mean = load_mean(open_body_dir / "SKEL_mean.npz")
    network = Network(small_config(), **mean)
    assert network.heads.mean_camera.tolist() == pytest.approx([0.9, 0, 0])
    assert network.heads.mean_rep[0].tolist() == pytest.approx([-1, 0, 0, 0, -1, 0], abs=1e-4)
    np.savez(tmp_path / "mean.npz", poses=np.zeros(45), betas=np.zeros(10), cam=np.zeros(3))
    with pytest.raises(UserError, match=r"mean\.npz: poses has 45"):
        load_mean(tmp_path / "mean.npz")


def test_the_wrong_gender(tmp_path, small_network):
    save_network(tmp_path / "n.safetensors", small_network(), INFO)
    loaded, info = load_any_network(tmp_path / "n.safetensors")
    assert (info, loaded.training) == (INFO, False)
    with pytest.raises(UserError, match="trained on the female SKEL, expected the male one"):
        load_any_network(tmp_path / "n.safetensors", "male")


@pytest.mark.parametrize("averaged", [True, False])
def test_the_published_one(tmp_path, small_network, monkeypatch, averaged):
    """Its file has 680 million weights: here a small network stands for what the reader makes of it."""
    small = small_network()
    monkeypatch.setattr(checkpoint, "load_skel_cf", lambda path: (small, averaged))
    loaded, info = load_any_network(tmp_path / "best.pth", "male")
    assert loaded is small
    assert not loaded.training
    assert (info.recipe, info.skel_gender) == (PUBLISHED + ("" if averaged else ", not averaged"), "male")
    with pytest.raises(UserError, match="SKEL-CF was trained on the male SKEL, expected the female one"):
        load_any_network(tmp_path / "best.pth", "female")


def test_another_file_of_torch_is_refused(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "best.pth")
    with pytest.raises(UserError, match=r"not a SKEL-CF checkpoint: expected an entry 'ema_model' or 'model'"):
        load_any_network(tmp_path / "best.pth")
    with pytest.raises(UserError, match=r"none\.pth"):
        load_any_network(tmp_path / "none.pth")
