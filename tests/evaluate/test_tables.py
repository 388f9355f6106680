"""The paper's tables beside ours: in text, Markdown and JSON; and facts that the tables share."""

import json

from hmr_skel.evaluate.paper import TABLE_1, TABLE_2, TABLE_3, TABLE_4, TABLE_5, TABLE_S2, TABLES, implied_cost
from hmr_skel.evaluate.tables import COST, OurLine, SideBySide, cost_columns, swap_lines

OURS = {"3dpw": {"mpjpe_mm": 61.04, "pa_mpjpe_mm": 38.66, "pve_mm": 73.0, COST: 0.66}, "moyo": {"mpjpe_mm": 90.0}}


def cells(table, method: str):
    line = next(line for line in table.lines if line.method == method)
    return {column.benchmark: values for column, values in zip(table.columns, line.cells, strict=True)}


def test_facts_of_the_paper_that_appear_twice_agree():
    one, two, four, five = (
        cells(table, name)
        for table, name in ((TABLE_1, "SKEL-CF"), (TABLE_2, "SKEL-CF"), (TABLE_4, "full"), (TABLE_5, "sparse"))
    )
    for name in ("3dpw", "moyo", "moyo-hard"):
        assert one[name] == two[name][:2]
        assert five[name] == two[name]
    assert four["moyo"] == two["moyo"]
    assert four["coco"] == cells(TABLE_3, "SKEL-CF")["coco"]
    assert [round(v, 2) for v in TABLE_S2.lines[-1].cells[0]] == [0.80, 0.94]
    for table in TABLES:
        for line in table.lines:
            assert len(line.cells) == len(table.columns)
            assert len(line.details) == len(table.details)
            for column, values in zip(table.columns, line.cells, strict=True):
                assert values is None or len(values) == len(column.metrics)


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
