"""`python -m fitting.lanes`: compile every kernel for this CPU now, rather than at the start of the first fit."""

import gc
import sys

from fitting.lanes.cache import compile_share, folder, keep, ready


def main() -> None:
    if len(sys.argv) == 3:  # a process of `fitting.lanes.cache`: its number, and of how many
        gc.disable()  # a fifth of the time goes into looking through what is all in use
        keep()
        compile_share(*map(int, sys.argv[1:]))
    else:
        ready()
        print(f"the fit is compiled for this CPU: {folder()}")


if __name__ == "__main__":
    main()
