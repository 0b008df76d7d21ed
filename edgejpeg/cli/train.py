"""Train a network behind a JPEG layer, weights and tables together, or without the layer as a baseline.

A recipe has every number of the training; several are laid over each other (--recipe cifar100 --recipe edgejpeg).
RUN gets weights.safetensors for --weights of export, layer.safetensors with the tables for harden, run.json with what
was done and measured, metrics.jsonl, and a checkpoint. Under torchrun (torchrun --nproc-per-node 8 -m edgejpeg train)
several GPUs or machines train one network. The last epoch is the result; --test is reported and chooses nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejpeg.cli.arguments import add_model_arguments, add_on_error_argument, model_from

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgejpeg.learn.recipe import Recipe

HELP = "train a network and the tables of a JPEG layer in front of it, by a recipe"


class _ListRecipes(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from edgejpeg.learn.recipe import list_recipes

        for name, description in list_recipes().items():
            print(f"{name:16} {description}")
        parser.exit()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    add_model_arguments(parser)
    parser.set_defaults(weights="none")
    data = parser.add_argument_group("data")
    sources = "class folders, a folder with labels.csv, a .zip of class folders, shards-{000..010}.tar, or cifar10:ROOT"
    data.add_argument("--data", required=True, help=f"images to train on: {sources}")
    data.add_argument("--test", metavar="DATA", help="images to report the accuracy on, in the same ways")
    add_on_error_argument(data)
    recipe = parser.add_argument_group("recipe")
    recipe.add_argument(
        "--recipe",
        action="append",
        required=True,
        metavar="NAME|FILE",
        help="a shipped recipe or a .toml file; given again, laid over those before",
    )
    recipe.add_argument(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="change a value, such as run.seed=3 schedule.epochs=100 layer.hardness=none",
    )
    recipe.add_argument("--list-recipes", action=_ListRecipes, help="list the shipped recipes, and end")
    recipe.add_argument("--no-jpeg-layer", action="store_true", help="the baseline: the same without the layer")
    recipe.add_argument(
        "--sensitivity",
        metavar="PROFILE",
        help="a profile of calibrate, where the first tables come from with layer.initial=sensitivity (default: the "
        "network's own with its first weights)",
    )
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="RUN", help="folder for the results")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: a GPU when there is one)")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run with the same arguments")
    parser.add_argument("--tensorboard", action="store_true", help="write RUN/tensorboard, too")
    parser.add_argument("--json", action="store_true", help="print run.json, and nothing else")


def run(args: argparse.Namespace) -> int:
    """Train, and say what was reached and what to do next."""
    from edgejpeg._optional import require

    for module in ("torch", "PIL", "tqdm", "safetensors"):
        require(module, extra="train", purpose="edgejpeg train")
    if args.tensorboard:
        require("tensorboard", extra="tensorboard", purpose="edgejpeg train --tensorboard")

    from edgejpeg.cli import EXIT_INTERRUPTED
    from edgejpeg.errors import InvalidInputError
    from edgejpeg.learn.recipe import load_recipe
    from edgejpeg.learn.training_data import open_images
    from edgejpeg.learn.training_log import TrainingInterrupted
    from edgejpeg.models import create_model

    baseline = ["layer.enabled=false"] if args.no_jpeg_layer else []
    recipe = load_recipe(*args.recipe, settings=[*args.set, *baseline])
    if args.output.exists() and not args.output.is_dir():
        raise InvalidInputError(f"RUN is a folder; got the file {str(args.output)!r}")
    images = open_images(args.data)
    test = None if args.test is None else open_images(args.test, test=True)
    if Path(args.weights).is_dir():
        model = model_from(args)
    else:
        model = create_model(
            args.model,
            args.weights,
            args.num_classes or images.num_classes,
            mean=args.mean,
            std=args.std,
            seed=recipe.run.seed,
        )
    if model.notice:
        _say(model.notice)
    try:
        report = _train(args, recipe, model, images, test)
    except TrainingInterrupted as stop:
        _say(f"interrupted; {stop}; continue with the same command and --resume")
        return EXIT_INTERRUPTED
    if _is_first_process():
        if args.json:
            print(json.dumps(report, indent=1))
        else:
            _print_summary(args, report)
    return 0


def _train(args: argparse.Namespace, recipe: Recipe, model: Any, images: Any, test: Any) -> dict[str, Any]:
    from tqdm import tqdm

    from edgejpeg.learn.train import train

    with tqdm(unit="step", desc="train", disable=None if _is_first_process() else True) as bar:

        def progress(step: int, steps: int, record: Mapping[str, Any]) -> None:
            bar.total = steps
            bar.update(step - bar.n)
            if "loss" in record:
                bar.set_postfix_str(f"epoch {record['epoch']}, loss {record['loss']:.3f}")
            else:
                bar.write(_epoch_line(record), file=sys.stderr)

        report = train(
            model,
            images,
            recipe,
            args.output,
            test=test,
            sensitivity=None if args.sensitivity is None else _sensitivity(args.sensitivity),
            device=args.device,
            resume=args.resume,
            on_error=args.on_error,
            tensorboard=args.tensorboard,
            progress=progress,
        )
    for reason in report["data"]["skipped"]:
        _say(f"skipped: {reason}")
    return report


def _sensitivity(name: str) -> Any:
    from edgejpeg.errors import InvalidInputError
    from edgejpeg.profile import load_profile

    profile = load_profile(name)
    if profile.sensitivity is None:
        raise InvalidInputError(
            f"the profile {name!r} has no sensitivity; --sensitivity takes one of edgejpeg calibrate"
        )
    return profile.sensitivity


def _epoch_line(entry: Mapping[str, Any]) -> str:
    parts = [f"{name} {entry[name]['top1']:.2%}" for name in ("train", "validation", "test") if name in entry]
    return f"epoch {entry['epoch']}: loss {entry['train']['loss']:.4f}, top-1 {', '.join(parts)}"


def _print_summary(args: argparse.Namespace, report: Mapping[str, Any]) -> None:
    results, data = report["results"], report["data"]["train"]
    print(f"{data['used']} of {data['images']} images, {report['num_classes']} classes; {report['steps']} steps")
    print(f"last epoch, the result: {_epoch_line(results).partition(': ')[2]}")
    if "best_validation" in results:
        best = results["best_validation"]
        print(f"best held-out epoch, for information: {best['epoch']}, {best['top1']:.2%}")
    held = report["bounds"] or {}
    for table, bounds in held.items():
        for bound, places in bounds.items():
            if places:
                value = report["layer"][bound]
                print(f"{table}: {len(places)} steps are at layer.{bound}, {value:g} (run.json lists them)")
    written = ["weights.safetensors"] + (["layer.safetensors"] if report["layer"] else [])
    print(f"wrote {', '.join(f'{args.output}/{name}' for name in written)} and run.json")
    following = f"edgejpeg export --model {args.model} --weights {args.output} --form pixels -o served"
    if report["layer"]:
        following = f"edgejpeg harden {args.output} --data {args.test or 'DATA'} -o profile.toml; {following}"
    print(f"next: {following}")


def _say(text: str) -> None:
    if _is_first_process():
        print(f"edgejpeg train: {text}", file=sys.stderr)


def _is_first_process() -> bool:
    import os

    return os.environ.get("RANK", "0") == "0"
