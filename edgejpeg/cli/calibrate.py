"""Estimate a network's sensitivities from images and write them as a profile."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejpeg.cli.arguments import (
    add_data_arguments,
    add_model_arguments,
    add_run_arguments,
    check_profile_run,
    model_from,
    positive_float,
    positive_int,
)

if TYPE_CHECKING:
    from edgejpeg.learn.data import Batches, ImageData
    from edgejpeg.learn.distributed import World
    from edgejpeg.learn.sensitivity import Sensitivity
    from edgejpeg.models import LoadedModel
    from edgejpeg.profile import Profile

HELP = "estimate a network's sensitivities from images and write a profile"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    add_model_arguments(parser)
    add_data_arguments(parser)
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="FILE", help="the profile to write (.toml)")
    parser.add_argument(
        "--images", type=positive_int, default=1000, help="how many images, drawn with --seed (default: %(default)s)"
    )
    parser.add_argument(
        "--subsampling", choices=("444", "422", "420"), default="420", help="of the files (default: %(default)s)"
    )
    parser.add_argument(
        "--labels",
        choices=("auto", "true", "self", "fisher"),
        default="auto",
        help="auto: true where the data has labels of this network's classes, else self; self: the network's own "
        "top-1; fisher: drawn from its softmax (default: %(default)s)",
    )
    parser.add_argument(
        "--fisher-samples", type=positive_int, default=1, help="labels drawn per image (default: %(default)s)"
    )
    parser.add_argument(
        "--target-error",
        type=positive_float,
        metavar="E",
        help="stop when the largest relative standard error is at most this, for example 0.05",
    )
    parser.add_argument(
        "--water-level",
        type=positive_float,
        default=1.0,
        metavar="D",
        help="normalised water level of the profile (default: %(default)s)",
    )
    parser.add_argument(
        "--q-max", type=positive_int, default=100, help="largest quantization step, 1..255 (default: %(default)s)"
    )
    add_run_arguments(parser, batch_size=16, seed_of="draw of images and labels")


def run(args: argparse.Namespace) -> int:
    """Estimate, write the profile, print a summary; under ``torchrun`` every process takes its share of the images."""
    from edgejpeg._optional import require
    from edgejpeg.errors import InvalidInputError

    for module in ("torch", "PIL", "tqdm"):
        require(module, extra="train", purpose="edgejpeg calibrate")
    from edgejpeg.learn.distributed import open_world

    if args.q_max > 255:
        raise InvalidInputError(f"--q-max is at most 255, what a baseline table holds; got {args.q_max}")
    check_profile_run(args)
    with open_world() as world:
        return _calibrate(args, world)


def _calibrate(args: argparse.Namespace, world: World) -> int:
    from edgejpeg.errors import DataError
    from edgejpeg.learn.data import open_data
    from edgejpeg.learn.distributed import device_for

    device = device_for(world, args.device)
    data = open_data(args.data)
    model = model_from(args)
    labels, reason = _choose_labels(args.labels, data, model)
    if world.rank == 0:
        for line in (model.notice, reason):
            if line:
                print(f"edgejpeg calibrate: {line}", file=sys.stderr)
    model.module.to(device)
    batches = data.batches(
        args.batch_size,
        size=model.input_size,
        resize=model.resize,
        interpolation=model.interpolation,
        seed=args.seed,
        rank=world.rank,
        world_size=world.size,
        on_error=args.on_error,
    )
    checkpoint = args.output.with_name(f"{args.output.name}.partial.npz")
    result = _estimate(args, model, data, batches, labels, checkpoint, world)
    if not _same_classes(data, model):
        result = replace(result, accuracy=None)
    skipped = _count_skipped(batches, world)
    if world.rank != 0:
        return 0
    if result.images < 2:
        raise DataError(f"a standard error needs at least 2 images; {str(args.data)!r} gave {result.images}")
    profile = _profile(args, model, result, skipped)
    profile.save(args.output)
    checkpoint.unlink(missing_ok=True)
    _print_summary(args, profile, result, skipped)
    return 0


def _same_classes(data: ImageData, model: LoadedModel) -> bool:
    """Whether the labels, where there are any, can be this network's classes: as many folders as it has classes."""
    return data.class_names is None or len(data.class_names) == model.num_classes


def _choose_labels(wanted: str, data: ImageData, model: LoadedModel) -> tuple[str, str | None]:
    """The labels to use, and a line that says why when the choice was ours."""
    from edgejpeg.errors import DataError

    if wanted in ("self", "fisher"):
        return wanted, None
    if data.labels is None:
        problem = f"{str(data.root)!r} has no labels"
    elif data.class_names is not None and not _same_classes(data, model):
        problem = (
            f"{str(data.root)!r} has {len(data.class_names)} class folders, {model.name} {model.num_classes} classes"
        )
    else:
        data.check_labels(model.num_classes)
        return "true", None
    if wanted == "true":
        raise DataError(f"{problem}; use --labels self or fisher, which need none, or write a labels.csv (file,class)")
    return "self", f"{problem}, so the network's own top-1 is the label (--labels self)"


def _estimate(
    args: argparse.Namespace,
    model: LoadedModel,
    data: ImageData,
    batches: Batches,
    labels: str,
    checkpoint: Path,
    world: World,
) -> Sensitivity:
    from tqdm import tqdm

    from edgejpeg.learn.sensitivity import estimate_sensitivity

    with tqdm(
        total=min(args.images, len(data)), unit="image", desc="calibrate", disable=None if world.rank == 0 else True
    ) as bar:

        def progress(images: int, relative_error: float) -> None:
            bar.update(images - bar.n)
            bar.set_postfix_str(f"relative error {relative_error:.3f}")

        return estimate_sensitivity(
            model.module,
            batches,
            mean=model.mean,
            std=model.std,
            subsampling=args.subsampling,
            labels=labels,
            fisher_samples=args.fisher_samples,
            seed=args.seed,
            max_images=args.images,
            target_relative_error=args.target_error,
            checkpoint=checkpoint,
            resume=args.resume,
            configuration={
                "data": data.root.resolve().name,
                "files": len(data),
                "input_size": list(model.input_size),
                "resize": model.resize,
                "interpolation": model.interpolation,
            },
            progress=progress,
            world=world,
        )


def _count_skipped(batches: Batches, world: World) -> int:
    """Name the skipped files of this process, and count those of all."""
    import torch

    for _, reason in batches.skipped:
        print(f"edgejpeg calibrate: skipped: {reason}", file=sys.stderr)
    return int(world.sum(torch.tensor([len(batches.skipped)], dtype=torch.float64))[0])


def _profile(args: argparse.Namespace, model: LoadedModel, result: Sensitivity, skipped: int) -> Profile:
    from edgejpeg._version import __version__
    from edgejpeg.profile import Profile

    provenance: dict[str, Any] = {
        "model": model.name,
        "weights": model.weights,
        "weights_sha256": model.weights_sha256,
        "num_classes": model.num_classes,
        "input_size": list(model.input_size),
        "resize": model.resize,
        "interpolation": model.interpolation,
        "data": args.data.resolve().name,
        "images": result.images,
        "skipped": skipped,
        "seed": args.seed,
        "labels": result.labels,
        "fisher_samples": args.fisher_samples if result.labels == "fisher" else None,
        "accuracy": None if result.accuracy is None else round(result.accuracy, 6),
        "largest_relative_standard_error": float(f"{result.relative_error:.4g}"),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "tool": f"edgejpeg {__version__}",
    }
    return Profile.adaptive(
        name=args.output.stem,
        sensitivity=result.sensitivity,
        standard_error=result.standard_error,
        water_level=args.water_level,
        q_max=args.q_max,
        subsampling=args.subsampling,
        provenance={key: value for key, value in provenance.items() if value is not None},
    )


def _print_summary(args: argparse.Namespace, profile: Profile, result: Sensitivity, skipped: int) -> None:
    from edgejpeg.jpeg.zigzag import to_zigzag

    luma, cb, cr = to_zigzag(result.sensitivity)
    summary = {
        "profile": str(args.output),
        "profile_id": profile.profile_id,
        "images": result.images,
        "skipped": skipped,
        "labels": result.labels,
        "subsampling": result.subsampling,
        "accuracy": result.accuracy,
        "largest_relative_standard_error": result.relative_error,
        "stopped_early": result.stopped_early,
        "max_luma_sensitivity": float(luma.max()),
        "max_luma_zigzag": int(luma.argmax()),
        "dc_sensitivity": [float(luma[0]), float(cb[0]), float(cr[0])],
    }
    if args.json:
        print(json.dumps(summary))
        return
    top1 = "" if result.accuracy is None else f", top-1 {result.accuracy:.3f}"
    early = " (stopped by --target-error)" if result.stopped_early else ""
    print(f"{result.images} images{early}, {skipped} skipped, labels {result.labels}, {result.subsampling}{top1}")
    print(f"largest relative standard error {result.relative_error:.3f}")
    print(
        f"luma sensitivity peaks at zigzag {luma.argmax()}: {luma.max():.3g}; DC: Y {luma[0]:.3g}, "
        f"Cb {cb[0]:.3g}, Cr {cr[0]:.3g}"
    )
    print(f"wrote {args.output}; next: edgejpeg encode IMAGE -p {args.output} -o OUT")
