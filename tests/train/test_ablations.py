"""The ablations: variants of a recipe, the time they may take, and both tables in one command."""

import json

import pytest

from bench.ablate import VARIANTS, chosen_variants, main, shortened, variant_recipe
from hmr_skel.errors import UserError
from hmr_skel.evaluate.paper import TABLE_4, TABLE_5
from hmr_skel.train.recipes import differences, load_recipe, recipe_dict
from tests.train.small_run import CHANGES, MANIFEST

pytestmark = pytest.mark.usefixtures("without_shape_checks")


def test_variants_are_the_papers_lines_and_change_what_they_are_named_for():
    lines = {number: [v.lines[number] for v in VARIANTS if number in v.lines] for number in ("4", "5")}
    assert lines["4"] == ["full", *[line.method for line in TABLE_4.lines if line.method not in ("HSMR", "full")]]
    assert lines["5"] == [line.method for line in TABLE_5.lines]
    made = {variant.name: variant_recipe(variant, "tiny", ["seed=3"]) for variant in VARIANTS}
    changed = {name: differences(recipe_dict(made["full"]), recipe_dict(recipe)) for name, recipe in made.items()}
    off = [f"network.{part}: True, False" for part in ("camera", "coarse", "refine")]
    assert changed == {
        "full": [],
        "baseline": off,
        "no-cam": off[:1],
        "no-c2f": off[1:2],
        "no-refine": off[2:],
        "full-super": ["losses.full_supervision: False, True"],
        "looped": ["network.looped: False, True"],
    }
    assert recipe_dict(made["full"]) == recipe_dict(load_recipe("tiny", ["seed=3"]))
    assert [v.name for v in chosen_variants("looped")] == ["full", "looped"]
    with pytest.raises(UserError, match=r"no variant 'twisted'.*baseline"):
        chosen_variants("full,twisted")


def test_fewer_epochs_have_a_shorter_warm_up():
    recipe = load_recipe("tiny", ["epochs=10.0", "warmup_epochs=0.5"])
    short = shortened(recipe, 4.0)
    assert (short.epochs, short.warmup_epochs) == (4.0, pytest.approx(0.2))
    assert shortened(recipe, 20.0) == recipe


@pytest.fixture
def command(samples, tmp_path, open_body_dir) -> list[str]:
    manifest = tmp_path / "test.toml"
    manifest.write_text(MANIFEST.format(bodies=open_body_dir, near=samples.images["near"].root))
    changes = [word for change in CHANGES if not change.startswith("epochs") for word in ("--set", change)]
    where = ["--manifest", str(manifest), "--data", str(samples.path), "--out", str(tmp_path / "runs")]
    return [*changes, *where, "--workers", "0", "--device", "cpu", "--json"]


def test_both_tables_in_one_command(command, capsys):
    assert main([*command, "--variants", "no-cam,looped", "--epochs", "0.3"]) == 0
    out = capsys.readouterr().out
    report = json.loads(out.strip().splitlines()[-1])
    variants = report["variants"]
    assert set(variants) == {"full", "no-cam", "looped"}
    ours = {table["table"]: [line for line in table["lines"] if line["source"] == "ours"] for table in report["tables"]}
    assert [line["method"] for line in ours["4"]] == ["full", "w/o Cam"]
    assert [(line["method"], line["loss"], line["layers x times"]) for line in ours["5"]] == [
        ("sparse", "L_refine", "2 x 1"), ("looped", "L_refine", "1 x 2"),
    ]  # fmt: skip
    errors = {name: one["held-out"]["final"]["mpjpe_mm"] for name, one in variants.items()}
    cells = [ours[number][0]["values"]["held-out"]["mpjpe_mm"] for number in ("4", "5")]
    assert cells == [errors["full"]] * 2
    assert ours["4"][0]["values"]["moyo"]["mpjpe_mm"] is None
    mean, low, high = report["against_full_mm"]["no-cam"]["mpjpe_mm"]
    assert low <= mean <= high
    assert mean == pytest.approx(errors["no-cam"] - errors["full"], abs=1e-3)
    for text in ("Table 4: ", "Table 5: ", "ours: w/o Cam"):
        assert text in out
