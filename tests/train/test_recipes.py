"""Recipes: what is in them, how they are changed, and that every field is explained."""

import json

import pytest

from hmr_skel.errors import UserError
from hmr_skel.model.checkpoint import config_from_dict
from hmr_skel.train.recipes import RECIPES, differences, flat, load_recipe, recipe_dict, recipe_text


def test_the_paper():
    recipe = load_recipe("vit_h")
    vit, losses = recipe.network.vit, recipe.losses
    assert (vit.width, vit.depth, vit.heads, vit.patch, vit.drop_path) == (1280, 32, 16, 16, 0.55)
    assert (losses.keypoints_2d, losses.keypoints_3d, losses.betas, losses.body) == (0.05, 0.05, 0.0005, 0.001)
    assert (losses.refine, losses.refine_form) == (0.1, "mean")
    assert (recipe.epochs, recipe.micro_batch, recipe.learning_rate, recipe.weight_decay) == (30, 64, 1e-5, 1e-4)
    assert (recipe.warmup_epochs, recipe.schedule, recipe.beta1, recipe.beta2) == (1, "constant", 0.9, 0.999)
    assert recipe.network.camera
    assert recipe.pretrained_encoder
    assert recipe.samples.augment.extreme_crop_probability == 0.1


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_printed_in_full_and_survives_json(name):
    recipe = load_recipe(name)
    plain = json.loads(json.dumps(recipe_dict(recipe)))
    assert plain == recipe_dict(recipe)
    assert config_from_dict(plain["network"]) == recipe.network
    text = recipe_text(recipe)
    assert f"recipe {name}" in text
    for key, value in flat(plain).items():
        assert f"{key} " in text
        assert str(value) in text


def test_changes():
    changes = ["learning_rate=1", "network.vit.depth=4", "samples.quality.max_v2v_mm=20"]
    changes += ["losses.refine_form=sum", "bf16=False", "samples.mixture={'coco': 1.0}"]
    recipe = load_recipe("vit_h", changes)
    assert (recipe.learning_rate, type(recipe.learning_rate)) == (1.0, float)
    assert (recipe.network.vit.depth, recipe.samples.quality.max_v2v_mm) == (4, 20.0)
    assert (recipe.losses.refine_form, recipe.bf16) == ("sum", False)
    assert recipe.samples.mixture == {"coco": 1.0}
    assert load_recipe("vit_h", ["samples.quality.max_v2v_mm=20", "samples.quality.max_v2v_mm=none"]) == load_recipe(
        "vit_h"
    )
    found = differences(recipe_dict(load_recipe("vit_h")), recipe_dict(recipe))
    assert "network.vit.depth: 32, 4" in found
    assert len(found) == 6


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("learning_rat=1", "did you mean learning_rate"),
        ("learning_rate", "expected FIELD=VALUE"),
        ("batch_size=1.5", "expected a value like"),
        ("epochs=0", "epochs is 0.0, must be above 0"),
        ("losses.betas=-1", "negative loss weights"),
        ("network.vit.heads=7", "not a multiple of heads"),
    ],
)
def test_impossible_changes_are_one_clear_message(change, text):
    with pytest.raises(UserError, match=text) as raised:
        load_recipe("vit_h", [change])
    assert f"--set {change}" in str(raised.value)


def test_maps_and_their_loss_go_together():
    with pytest.raises(UserError, match=r"losses.keypoint_maps is .* Set both or neither to 0"):
        load_recipe("vit_b", ["losses.keypoint_maps=0.1"])
    both = ["losses.keypoint_maps=0", "network.vit.stem_tokens=0"]
    with pytest.raises(UserError, match=r"network.correction compares|network.correction needs"):
        load_recipe("tiny", both)
    assert load_recipe("tiny", [*both, "network.correction=0"]).network.vit.stem_tokens == 0


def test_steps_and_micro_batches():
    recipe = load_recipe("vit_h")
    assert [recipe.accumulate(processes) for processes in (1, 2, 8)] == [8, 4, 1]
    assert recipe.steps(3_000_000) == round(30 * 3_000_000 / 512)
    assert recipe.warmup_steps(3_000_000) == round(3_000_000 / 512)
    assert recipe.steps(1) == 1
