"""`python -m fitting.lanes`: compile every kernel for this CPU now, rather than in the middle of the first fit."""

import tempfile
import time
from pathlib import Path

import torch

import fitting
from hmr_skel.body.files import SKEL_FILES, SMPL_FILES
from hmr_skel.body.open_body.export import export_body
from hmr_skel.body.skel import Skel
from hmr_skel.body.smpl import Smpl
from hmr_skel.rows import SmplParams


def main() -> None:
    """Fit one person of the open body: what is compiled does not depend on whose body it is."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        export_body(Path(folder))
        smpl, skel = Smpl.load(Path(folder, SMPL_FILES["neutral"])), Skel.load(Path(folder, SKEL_FILES["male"]))
    model = fitting.prepare(smpl, skel, fitting.recipe("default"), compiled=True)
    zero = torch.zeros(1, 3)
    points = torch.zeros(1, len(smpl.template))
    fitting.fit_many(SmplParams(zero, torch.full((1, 23, 3), 0.5), torch.zeros(1, 10), zero), model, points)
    print(f"solver compiled for this CPU: {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
