"""`python -m fitting.gpu`: run a kernel on the first GPU, and say what was found, or what is missing."""

import sys

import torch

from fitting.gpu.device import check
from hmr_skel.errors import UserError


def main() -> int:
    try:
        if not torch.cuda.is_available():
            raise UserError(
                f"torch {torch.__version__} finds no CUDA device: make setup CUDA=1, on a machine with one."
            )
        check(torch.device("cuda"))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"fits run on {torch.cuda.get_device_name()}, torch {torch.__version__}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
