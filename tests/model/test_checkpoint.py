"""Our own files: what goes in comes out, and what does not belong is refused."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from hmr_skel.errors import UserError
from hmr_skel.model import checkpoint
from hmr_skel.model.checkpoint import (
    PUBLISHED,
    NetworkInfo,
    config_from_dict,
    load_any_network,
    load_mean,
    load_network,
    save_network,
)
from hmr_skel.model.network import Network
from tests.train.small_run import small_recipe

INFO = NetworkInfo(skel_gender="female", recipe="tiny", details={"step": 12, "source": "open"})


@pytest.mark.parametrize("switches", [{}, {"camera": False, "coarse": False, "refine": False}, {"looped": True}])
def test_round_trip(tmp_path, small_network, geometry, switches):
    network = small_network(**switches)
    save_network(tmp_path / "run" / "net.safetensors", network, INFO)
    again, info = load_network(tmp_path / "run" / "net.safetensors", skel_gender="female")
    assert info == INFO
    assert again.config == network.config
    assert not again.training
    images, where = torch.randn(2, 3, 256, 192), geometry(2)
    expected = network.eval()(images, where).final
    assert torch.equal(again(images, where).final.rep, expected.rep)
    assert all(parameter.requires_grad for parameter in again.parameters())


def test_nothing_but_the_two_files_is_left_and_people_can_read_one(tmp_path, small_network):
    save_network(tmp_path / "net.safetensors", small_network(), INFO)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.json", "net.safetensors"]
    about = json.loads((tmp_path / "net.json").read_text())
    assert (about["skel_gender"], about["recipe"], about["network"]["vit"]["width"]) == ("female", "tiny", 32)
    with safe_open(tmp_path / "net.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["about"]) == about


def test_equal_networks_give_equal_bytes(tmp_path, small_network):
    for name in ("a", "b"):
        save_network(tmp_path / f"{name}.safetensors", small_network(seed=3), INFO)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_averaged_weights_in_place_of_the_networks_own(tmp_path, small_network):
    averaged = {name: tensor + 1 for name, tensor in small_network().state_dict().items()}
    save_network(tmp_path / "net.safetensors", small_network(), INFO, weights=averaged)
    again, _ = load_network(tmp_path / "net.safetensors")
    assert all(torch.equal(tensor, averaged[name]) for name, tensor in again.state_dict().items())


def test_a_failed_write_leaves_the_old_file(tmp_path, small_network, monkeypatch):
    path = tmp_path / "net.safetensors"
    save_network(path, small_network(), INFO)
    before = path.read_bytes()

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hmr_skel.model.checkpoint.save_file", full)
    with pytest.raises(UserError, match=r"cannot write .*net\.safetensors.*No space left"):
        save_network(path, small_network(seed=1), INFO)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_the_wrong_gender(tmp_path, small_network):
    save_network(tmp_path / "net.safetensors", small_network(), INFO)
    with pytest.raises(UserError, match="trained on the female SKEL, the male one is asked for"):
        load_network(tmp_path / "net.safetensors", skel_gender="male")


def test_foreign_and_damaged_files(tmp_path, small_network):
    path = tmp_path / "net.safetensors"
    with pytest.raises(UserError, match="no such file"):
        load_network(path)
    path.write_bytes(b"hello")
    with pytest.raises(UserError, match="damaged"):
        load_network(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="no network of hmr-skel"):
        load_network(path)
    save_network(path, small_network(), INFO)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="damaged"):
        load_network(path)


@pytest.mark.parametrize("drop", ["network", "recipe"])
def test_an_incomplete_description(tmp_path, small_network, drop):
    path = tmp_path / "net.safetensors"
    save_network(path, small_network(), INFO)
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["about"])
    del about[drop]
    save_file(small_network().state_dict(), path, metadata={"about": json.dumps(about)})
    with pytest.raises(UserError, match=f"does not fit this version.*{drop}"):
        load_network(path)


def test_weights_that_do_not_fit_the_description(tmp_path, small_network):
    path = tmp_path / "net.safetensors"
    save_network(path, small_network(), INFO)
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
    save_file(small_network(looped=True).state_dict(), path, metadata=about)
    with pytest.raises(UserError, match=r"missing \(decoder\.layers\.1"):
        load_network(path)


def test_unknown_switches_are_no_surprise_later(small_config):
    import dataclasses

    config = dataclasses.asdict(small_config(looped=True))
    assert config_from_dict(json.loads(json.dumps(config))) == small_config(looped=True)
    with pytest.raises(TypeError):
        config_from_dict(config | {"new_switch": True})


def test_the_mean_beside_the_body_models(open_body_dir, small_config):
    from hmr_skel.model.network import Network

    mean = load_mean(open_body_dir / "SKEL_mean.npz")
    network = Network(small_config(), **mean)
    assert network.heads.mean_camera.tolist() == pytest.approx([0.9, 0, 0])
    assert network.heads.mean_rep[0].tolist() == pytest.approx([-1, 0, 0, 0, -1, 0], abs=1e-4)


@pytest.mark.parametrize("arrays", [{}, {"poses": np.zeros(45), "betas": np.zeros(10), "cam": np.zeros(3)}])
def test_a_mean_of_another_shape(tmp_path, arrays):
    np.savez(tmp_path / "mean.npz", **arrays)
    with pytest.raises(UserError, match=r"mean\.npz: (no mean parameters|poses has 45)"):
        load_mean(tmp_path / "mean.npz")


def test_ours(tmp_path):
    network = Network(small_recipe().network)
    save_network(tmp_path / "n.safetensors", network, NetworkInfo(skel_gender="female", recipe="tiny"))
    loaded, info = load_any_network(tmp_path / "n.safetensors")
    assert (info.recipe, info.skel_gender, loaded.training) == ("tiny", "female", False)
    with pytest.raises(UserError, match="trained on the female SKEL"):
        load_any_network(tmp_path / "n.safetensors", "male")


@pytest.mark.parametrize("averaged", [True, False])
def test_the_published_one(tmp_path, monkeypatch, averaged):
    """Its file has 680 million weights: here a small network stands for what the reader makes of it."""
    small = Network(small_recipe().network)
    monkeypatch.setattr(checkpoint, "load_skel_cf", lambda path: (small, averaged))
    loaded, info = load_any_network(tmp_path / "best.pth", "male")
    assert loaded is small
    assert not loaded.training
    assert (info.recipe, info.skel_gender) == (PUBLISHED + ("" if averaged else ", not averaged"), "male")
    with pytest.raises(UserError, match="SKEL-CF was trained on the male SKEL, the female one is asked for"):
        load_any_network(tmp_path / "best.pth", "female")


def test_another_file_of_torch_is_refused(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "best.pth")
    with pytest.raises(UserError, match=r"no SKEL-CF checkpoint: expected an entry 'ema_model' or 'model'"):
        load_any_network(tmp_path / "best.pth")
    with pytest.raises(UserError, match=r"none\.pth"):
        load_any_network(tmp_path / "none.pth")
