"""Argument groups that several verbs share."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """``--model``, ``--weights``, ``--num-classes``."""
    group = parser.add_argument_group("network")
    group.add_argument(
        "--model", required=True, help="efficientnet_lite0, a torchvision name such as resnet18, or timm:NAME"
    )
    group.add_argument(
        "--weights",
        default="auto",
        metavar="auto|none|default|FILE",
        help="auto: those on this machine, else random ones with a notice; none: random; default: download the "
        "published ones; or a .pth or .safetensors file (default: %(default)s)",
    )
    group.add_argument("--num-classes", type=positive_int, help="classes of the last layer, if not the network's own")


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """``--data``, ``--on-error``."""
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data", required=True, type=Path, metavar="DIR", help="an image folder by class, or one with labels.csv"
    )
    add_on_error_argument(group)


def add_on_error_argument(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """``--on-error skip|fail``."""
    parser.add_argument(
        "--on-error",
        choices=("skip", "fail"),
        default="skip",
        help="an image that is missing or damaged: count, name and skip it, or fail (default: %(default)s)",
    )


def positive_int(text: str) -> int:
    """An integer of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def positive_float(text: str) -> float:
    """A finite number above 0, for argparse."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value
