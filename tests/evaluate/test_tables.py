"""The paper's tables beside ours: in text, Markdown and JSON; and facts that the tables share."""

import json

from hmr_skel.evaluate.paper import TABLE_1, TABLE_S2, implied_cost
from hmr_skel.evaluate.tables import COST, OurLine, SideBySide, cost_columns, swap_lines

OURS = {"3dpw": {"mpjpe_mm": 61.04, "pa_mpjpe_mm": 38.66, "pve_mm": 73.0, COST: 0.66}, "moyo": {"mpjpe_mm": 90.0}}


def test_what_the_paper_implies_of_the_cost_of_conversion():
    lines = {line.method: line for line in TABLE_1.lines}
    assert round(implied_cost(lines["CameraHMR + SKEL fit"], "3dpw"), 1) == 7.7
    assert round(implied_cost(lines["HMR2.0 + SKEL fit"], "moyo"), 1) == 7.2
    assert implied_cost(lines["CameraHMR + SKEL fit"], "h36m-p2") is None
    assert implied_cost(lines["HSMR"], "3dpw") is None


def test_ours_stand_below_theirs_in_the_same_columns():
    side = SideBySide(TABLE_1, [OurLine("run", OURS)], cost_columns(["3dpw"]), ("a note",))
    lines = side.text().splitlines()
    assert lines[1].split() == ["method", "3DPW", "Human3.6M", "MOYO", "MOYO-HARD", "cost", "3DPW", "MPJPE"]
    assert lines[4].split() == ["CameraHMR", "+", "SKEL", "fit", "70.4/41.8", "-", "75.5/49.9", "88.7/61.4", "+7.7"]
    assert lines[-2].split() == ["ours:", "run", "61.0/38.7", "-", "90.0/-", "-", "+0.7"]
    assert lines[-1] == "a note"
    page = side.markdown().splitlines()
    assert page[-3] == "| ours: run | 61.0/38.7 | - | 90.0/- | - | +0.7 |"
    found = json.loads(json.dumps(side.as_dict()))
    assert found["table"] == "1"
    assert found["lines"][-1] == {
        "method": "run",
        "source": "ours",
        "values": {
            "3dpw": {"mpjpe_mm": 61.04, "pa_mpjpe_mm": 38.66, COST: 0.66},
            "h36m-p2": {"mpjpe_mm": None, "pa_mpjpe_mm": None},
            "moyo": {"mpjpe_mm": 90.0, "pa_mpjpe_mm": None},
            "moyo-hard": {"mpjpe_mm": None, "pa_mpjpe_mm": None},
        },
    }
    assert found["lines"][0]["values"]["3dpw"]["mpjpe_mm"] == 81.0


def test_layers_of_a_network():
    stages = {f"swap_{what}_{i}": {"pck_05": 0.1 * i, "pck_10": 0.2 * i} for what in ("xy", "s") for i in range(3)}
    side = SideBySide(TABLE_S2, swap_lines("run", stages))
    assert [row[0] for row in side.cells()[-3:]] == [f"ours: run, layer {i}" for i in range(3)]
    assert side.cells()[-1][1:] == ["0.2000/0.4000", "0.2000/0.4000"]
