"""`python -m fitting.gpu`: fit a row of the open body on the first GPU, and say what was found, or what is missing."""

import sys
import tempfile
from pathlib import Path

import torch

from fitting import prepare, recipe
from hmr_skel.body.open_body.export import make_open_body
from hmr_skel.body.skel import Skel
from hmr_skel.body.smpl import Smpl
from hmr_skel.errors import UserError


def main() -> int:
    try:
        if not torch.cuda.is_available():
            raise UserError(
                f"torch {torch.__version__} finds no CUDA device: make setup CUDA=1, on a machine with one."
            )
        with tempfile.TemporaryDirectory() as folder:
            make_open_body(Path(folder), quiet=True)
            smpl, skel = Smpl.load(Path(folder, "SMPL_NEUTRAL.pkl")), Skel.load(Path(folder, "skel_male.pkl"))
        prepare(smpl, skel, recipe("default"), device="cuda")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"fits run on {torch.cuda.get_device_name()}, torch {torch.__version__}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
