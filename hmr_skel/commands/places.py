"""Datasets as arguments: folders of this machine, and where a command reads from a store, URIs."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from hmr_skel.errors import UserError

if TYPE_CHECKING:
    from hmr_skel.data.storage import Place


def place(text: str) -> "Place":
    """A folder, or the URI of a dataset in a store."""
    if "://" not in text:
        return Path(text)
    from hmr_skel.data.storage import locate

    try:
        return locate(text)
    except UserError as error:  # argparse shows this text alone, and not the argument, which may hold a password
        raise argparse.ArgumentTypeError(str(error)) from None


def folder(text: str) -> Path:
    """A folder of this machine."""
    if "://" in text:
        raise argparse.ArgumentTypeError(
            "expected a folder of this machine. Copy the dataset there first: aws s3 sync s3://bucket/prefix FOLDER"
        )
    return Path(text)
