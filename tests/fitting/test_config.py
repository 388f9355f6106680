"""Recipes, and what a configuration refuses."""

import json
from dataclasses import replace

import pytest

from fitting.config import RECIPES, FitConfig, Stage, recipe
from hmr_skel.errors import UserError


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_plain_numbers_and_every_value_reaches_the_fingerprint(name):
    config = recipe(name)
    assert json.loads(json.dumps(config.as_dict()))["stages"][-1]["part"] == "full"
    assert config.as_dict().keys() == FitConfig.__dataclass_fields__.keys()
    first = replace(config.stages[0], iterations=7)
    assert replace(config, stages=(first, *config.stages[1:])).as_dict() != config.as_dict()


def test_unknown_recipe_names_the_known_ones():
    with pytest.raises(UserError, match=r"'best'.*default.*published_shape"):
        recipe("best")


def test_impossible_configurations_and_stages_are_refused():
    for wrong in (
        {"stages": ()}, {"stages": (Stage(part="upper"),)}, {"shape": "guess"}, {"root": "guess"}, {"limits": "none"},
        {"batch": 0}, {"prior_weight": -1e-6}, {"retry_v2v_mm": -1.0}, {"betas_rms": 0.0}, {"step_tolerance": 0.0},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"full|shape|root|limits|positive|negative"):
            FitConfig(**wrong)
    for wrong in ({"part": "left"}, {"joints": "hips"}, {"refreshes": 0}, {"iterations": 0}, {"joint_weight": -0.1}):
        with pytest.raises(ValueError, match="stage"):
            Stage(**{"part": "full"} | wrong)
