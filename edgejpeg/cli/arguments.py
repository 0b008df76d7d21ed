"""Argument groups that several verbs share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgejpeg.models import LoadedModel


def add_model_arguments(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """``--model``, ``--weights``, ``--num-classes``, ``--mean``, ``--std``, for :func:`model_from`."""
    group = parser.add_argument_group("network")
    group.add_argument(
        "--model",
        required=required,
        help="efficientnet_lite0, for 32x32 images such as cifar_resnet20, a torchvision name such as resnet18, or "
        "timm:NAME",
    )
    group.add_argument(
        "--weights",
        default="auto",
        metavar="auto|none|default|FILE|RUN",
        help="auto: those on this machine, else random ones with a notice; none: random; default: download the "
        "published ones; a .pth or .safetensors file; or the RUN of edgejpeg train (default: %(default)s)",
    )
    group.add_argument("--num-classes", type=positive_int, help="classes of the last layer, if not the network's own")
    for name, what in (("mean", "mean"), ("std", "standard deviation")):
        group.add_argument(
            f"--{name}",
            type=float,
            nargs=3,
            metavar=("R", "G", "B"),
            help=f"{what} in 0..255 that the weights were trained with, if not the network's own",
        )


def model_from(args: argparse.Namespace) -> LoadedModel:
    """The network of :func:`add_model_arguments`; a folder as weights is the RUN of edgejpeg train.

    Raises:
        ModelError: as :func:`edgejpeg.models.create_model` does.
        DataError: the folder holds no finished training.
        InvalidInputError: one of another network, or of another command.
    """
    if Path(args.weights).is_dir():
        return _trained_model(args)
    from edgejpeg.models import create_model

    return create_model(args.model, args.weights, args.num_classes, mean=args.mean, std=args.std)


def _trained_model(args: argparse.Namespace) -> LoadedModel:
    """The network of a training run, with the input and the classes that it was trained with."""
    from edgejpeg.errors import InvalidInputError
    from edgejpeg.learn.training_run import load_run

    model = load_run(args.weights).model
    asked = {"model": args.model, "num_classes": args.num_classes, "mean": args.mean, "std": args.std}
    for name, value in asked.items():
        has = getattr(model, name if name != "model" else "name")
        if value is not None and (list(has) if isinstance(has, tuple) else has) != value:
            option = f"--{name.replace('_', '-')}"
            raise InvalidInputError(f"the run {args.weights!r} has {option} {has}; got {value}: leave it out")
    return model


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


def add_control_arguments(parser: argparse.ArgumentParser) -> None:
    """``--max-bytes``, ``--target-bpp``, ``--level``, ``--slope``: who chooses the tables of a frame."""
    budget = parser.add_argument_group("budget", "no file is larger; the tables are chosen for every image")
    budget.add_argument("--max-bytes", type=positive_int, metavar="N", help="bytes of a file, headers included")
    budget.add_argument("--target-bpp", type=positive_float, metavar="B", help="bits per pixel of an image")
    levels = parser.add_argument_group("levels of a ladder profile").add_mutually_exclusive_group()
    levels.add_argument(
        "--level", type=int, metavar="L", help="from 0, the lowest rate; with a budget, the highest one"
    )
    levels.add_argument("--slope", type=float, metavar="S", help="the level at which one more costs S bytes")


def control_options(args: argparse.Namespace) -> dict[str, Any]:
    """What :func:`add_control_arguments` got, as the arguments of an Encoder."""
    return {name: getattr(args, name) for name in ("max_bytes", "target_bpp", "level", "slope")}


def add_run_arguments(parser: argparse.ArgumentParser, *, batch_size: int, seed_of: str) -> None:
    """``--batch-size``, ``--seed``, ``--device``, ``--resume``, ``--json`` of a verb that works long for a profile."""
    parser.add_argument("--batch-size", type=positive_int, default=batch_size, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help=f"of the {seed_of} (default: %(default)s)")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: a GPU when there is one)")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run with the same arguments")
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object")


def check_profile_run(args: argparse.Namespace) -> None:
    """Before the long work: the seed, and that the profile can be written to ``--output``.

    Raises:
        InvalidInputError: a negative seed, an output that is no .toml file, or a missing folder.
    """
    from edgejpeg.errors import InvalidInputError

    if args.seed < 0:
        raise InvalidInputError(f"--seed is at least 0; got {args.seed}")
    if args.output.suffix != ".toml" or args.output.is_dir():
        raise InvalidInputError(f"the output is a file that ends in .toml; got {str(args.output)!r}")
    if not args.output.parent.is_dir():
        raise InvalidInputError(f"cannot write {args.output}: no folder {args.output.parent}; make it first")


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
