"""Learn tables and zeroing thresholds for a network from unlabelled images, and write them as a profile."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

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
    from numpy.typing import NDArray

    from edgejpeg.learn.data import ImageData
    from edgejpeg.learn.tables import LearnedTables
    from edgejpeg.models import LoadedModel
    from edgejpeg.profile import Profile

HELP = "learn tables for a network from unlabelled images, for one rate or a ladder of rates"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    add_model_arguments(parser)
    add_data_arguments(parser)
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="FILE", help="the profile to write (.toml)")
    rates = parser.add_argument_group("rates", "bits per pixel of whole files, in the mean over the images")
    rates.add_argument("--target-bpp", type=positive_float, metavar="BPP", help="one rate: a fixed profile")
    rates.add_argument("--levels", type=positive_int, metavar="N", help="2 to 16 rates: a ladder")
    rates.add_argument(
        "--range",
        type=positive_float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="the rates of the ladder's ends, in equal ratios between (default: .4 2.5)",
    )
    parser.add_argument(
        "--images", type=positive_int, default=600, help="how many images, drawn with --seed (default: %(default)s)"
    )
    parser.add_argument(
        "--subsampling", choices=("444", "422", "420"), default="420", help="of the files (default: %(default)s)"
    )
    parser.add_argument(
        "--effort",
        type=int,
        choices=(0, 1),
        default=1,
        help="entropy coding: 0 stored Huffman tables, 1 optimal ones (default: %(default)s)",
    )
    parser.add_argument(
        "--steps", type=positive_int, default=120, help="of a level; the highest twice that (default: %(default)s)"
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="of the network where slopes are taken; bf16 is faster where the device has it (default: %(default)s)",
    )
    add_run_arguments(parser, batch_size=20, seed_of="draw and order of images")


def run(args: argparse.Namespace) -> int:
    """Learn, write the profile, print a summary."""
    from edgejpeg._optional import require

    for module in ("torch", "PIL", "tqdm"):
        require(module, extra="train", purpose="edgejpeg learn-tables")
    from edgejpeg.learn.data import open_data
    from edgejpeg.learn.distributed import World, device_for

    rates = _rates(args)
    check_profile_run(args)
    data = open_data(args.data)
    model = model_from(args)
    if model.notice:
        print(f"edgejpeg learn-tables: {model.notice}", file=sys.stderr)
    model.module.to(device_for(World(), args.device))
    images, skipped = _read(args, data, model)
    checkpoint = args.output.with_name(f"{args.output.name}.partial.npz")
    learned = _learn(args, model, images, rates, checkpoint)
    profile = learned.profile(args.output.stem, _provenance(args, model, learned, rates, skipped))
    profile.save(args.output)
    checkpoint.unlink(missing_ok=True)
    _print_summary(args, profile, learned, rates, skipped)
    return 0


def _rates(args: argparse.Namespace) -> list[float]:
    """The wanted rates, rising."""
    from edgejpeg.errors import InvalidInputError

    if (args.target_bpp is None) == (args.levels is None):
        raise InvalidInputError("give one of --target-bpp, for one rate, and --levels, for a ladder")
    if args.target_bpp is not None:
        if args.range is not None:
            raise InvalidInputError("--range belongs to --levels; --target-bpp is one rate")
        return [args.target_bpp]
    if not 2 <= args.levels <= 16:
        raise InvalidInputError(f"--levels is 2 to 16, what a ladder holds; got {args.levels} (one: --target-bpp)")
    low, high = args.range or (0.4, 2.5)
    if not low < high:
        raise InvalidInputError(f"--range is LOW HIGH with LOW below HIGH; got {low:g} {high:g}")
    return [float(rate) for rate in np.geomspace(low, high, args.levels)]


def _read(args: argparse.Namespace, data: ImageData, model: LoadedModel) -> tuple[NDArray[np.uint8], int]:
    """The first ``--images`` readable images of the seed's order, and how many were skipped."""
    batches = data.batches(
        args.batch_size,
        size=model.input_size,
        resize=model.resize,
        interpolation=model.interpolation,
        seed=args.seed,
        on_error=args.on_error,
    )
    parts: list[NDArray[np.uint8]] = []
    for batch in batches:
        parts.append(batch.images)
        if sum(map(len, parts)) >= args.images:
            break
    for _, reason in batches.skipped:
        print(f"edgejpeg learn-tables: skipped: {reason}", file=sys.stderr)
    return np.concatenate(parts)[: args.images], len(batches.skipped)


def _learn(
    args: argparse.Namespace, model: LoadedModel, images: NDArray[np.uint8], rates: list[float], checkpoint: Path
) -> LearnedTables:
    from tqdm import tqdm

    from edgejpeg.learn.tables import learn_tables
    from edgejpeg.runtime.encoder import Encoder

    with tqdm(total=(len(rates) + 1) * args.steps, unit="step", desc="learn-tables", disable=None) as bar:

        def progress(level: int, step: int, error: float, rate: float) -> None:
            before = len(rates) - 1 - level  # the highest rate is the first, and takes twice the steps
            done = step + (before + 1) * args.steps if before else step
            bar.update(done - bar.n)
            bar.set_postfix_str(f"level {level + 1}/{len(rates)}, {rate:.3f} bpp, logits' error {error:.4f}")

        return learn_tables(
            model.module,
            images,
            mean=model.mean,
            std=model.std,
            rates=rates,
            make_encoder=lambda profile: Encoder(profile, color="rgb").encode,
            subsampling=args.subsampling,
            effort=args.effort,
            steps=args.steps,
            batch_size=args.batch_size,
            seed=args.seed,
            bfloat16=args.precision == "bf16",
            checkpoint=checkpoint,
            resume=args.resume,
            progress=progress,
        )


def _provenance(
    args: argparse.Namespace, model: LoadedModel, learned: LearnedTables, rates: list[float], skipped: int
) -> dict[str, Any]:
    from edgejpeg._version import __version__

    provenance: dict[str, Any] = {
        "model": model.name,
        "weights": model.weights,
        "weights_sha256": model.weights_sha256,
        "num_classes": model.num_classes,
        "input_size": list(model.input_size),
        "resize": model.resize,
        "interpolation": model.interpolation,
        "data": args.data.resolve().name,
        "images": learned.images,
        "skipped": skipped,
        "method": "squared error of the logits at a rate, frozen network, no labels",
        "steps": args.steps,
        "batch_size": args.batch_size,
        "seed": args.seed,
        "precision": args.precision,
        "target_bpp": [round(rate, 6) for rate in rates],
        "bpp": [round(level.rate, 6) for level in learned.levels],
        "kl": [float(f"{value:.4g}") for value in learned.divergences],
        "date": datetime.now(timezone.utc).date().isoformat(),
        "tool": f"edgejpeg {__version__}",
    }
    return {key: value for key, value in provenance.items() if value is not None}


def _print_summary(
    args: argparse.Namespace, profile: Profile, learned: LearnedTables, rates: list[float], skipped: int
) -> None:
    rows = [
        {"target_bpp": target, "bpp": level.rate, "kl": value}
        for target, level, value in zip(rates, learned.levels, learned.divergences, strict=True)
    ]
    if args.json:
        summary = {
            "profile": str(args.output),
            "profile_id": profile.profile_id,
            "kind": profile.kind,
            "images": learned.images,
            "skipped": skipped,
            "levels": rows,
        }
        print(json.dumps(summary))
        return
    print(f"{learned.images} images, {skipped} skipped; {profile.kind}, {profile.subsampling}, effort {profile.effort}")
    for row in rows:
        error = row["bpp"] / row["target_bpp"] - 1
        print(f"  {row['bpp']:.3f} bpp ({error:+.1%} of the target), KL {row['kl']:.4g}")
    print(f"wrote {args.output}; next: edgejpeg encode IMAGE -p {args.output} -o OUT")
