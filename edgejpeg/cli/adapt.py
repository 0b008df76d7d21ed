"""Adapt a network to JPEG without labels: it learns to answer on decoded files as it did on clean images.

The images go through files of this package's encoder and OpenCV's decoder, at one rate or over a range of rates. RUN
gets weights.safetensors for --weights of export and calibrate, profile.toml for encode and send, run.json with what was
done and measured on held-out images, metrics.jsonl, and a checkpoint.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejpeg.cli.arguments import add_data_arguments, add_model_arguments, model_from, positive_float, positive_int

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgejpeg.learn.adapt import Adapted, AdaptOptions
    from edgejpeg.learn.crops import Photos
    from edgejpeg.learn.held_out import Decode
    from edgejpeg.learn.rates import Encode, RateRange
    from edgejpeg.learn.runs import RunFolder
    from edgejpeg.models import LoadedModel
    from edgejpeg.profile import Profile

HELP = "adapt a network to JPEG without labels: weights and the profile that goes with them"

_RATE_IMAGES = 32  # on which the rates of the settings are measured


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    add_model_arguments(parser)
    add_data_arguments(parser)
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="RUN", help="folder for the results")
    rate = parser.add_argument_group("rate").add_mutually_exclusive_group(required=True)
    rate.add_argument(
        "--target-bpp", type=positive_float, metavar="BPP", help="bits per pixel of the files, such as .6"
    )
    rate.add_argument(
        "--range", type=positive_float, nargs=2, metavar=("LOW", "HIGH"), help="a range of them, such as .3 2"
    )
    tables = parser.add_argument_group("tables")
    tables.add_argument(
        "-p", "--profile", help="a shipped profile or a .toml file to set to these rates (default: the IJG's tables)"
    )
    tables.add_argument(
        "--subsampling",
        choices=("444", "422", "420", "gray"),
        help="without --profile, which has its own (default: 420)",
    )
    training = parser.add_argument_group("training")
    training.add_argument("--images", type=positive_int, default=1000, help="drawn with --seed (default: %(default)s)")
    training.add_argument("--epochs", type=positive_int, default=20, help="(default: %(default)s)")
    training.add_argument("--batch-size", type=positive_int, default=32, help="(default: %(default)s)")
    training.add_argument("--lr", type=positive_float, default=2e-4, help="of AdamW (default: %(default)s)")
    training.add_argument(
        "--clean", type=float, default=0.15, metavar="PART", help="of images left uncompressed (default: %(default)s)"
    )
    training.add_argument(
        "--features",
        type=float,
        default=100.0,
        metavar="WEIGHT",
        help="of the distance between feature maps beside the answers' KL; 0: answers alone (default: %(default)s)",
    )
    training.add_argument(
        "--clean-limit",
        type=float,
        default=1.0,
        metavar="POINTS",
        help="of top-1 that may be lost on clean images (default: %(default)s)",
    )
    training.add_argument(
        "--ema", type=float, default=0.0, metavar="DECAY", help="of a running average of the weights, such as .99"
    )
    training.add_argument("--crop", type=positive_int, help="side of the training crops (default: the network's input)")
    training.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="(default: %(default)s)")
    training.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    training.add_argument("--device", help="cpu, cuda or cuda:N (default: a GPU when there is one)")
    training.add_argument("--workers", type=positive_int, default=1, help="threads for JPEG (default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run with the same arguments")
    parser.add_argument("--json", action="store_true", help="print run.json, and nothing else")


def run(args: argparse.Namespace) -> int:
    """Train, choose, write, and say what was written."""
    from edgejpeg._optional import require
    from edgejpeg.errors import InvalidInputError

    for module in ("torch", "PIL", "tqdm", "safetensors"):
        require(module, extra="train", purpose="edgejpeg adapt")
    if args.profile is not None and args.subsampling is not None:
        raise InvalidInputError("--subsampling is for the IJG's tables, and --profile has its own; give one of them")

    from edgejpeg.learn.adapt import AdaptOptions
    from edgejpeg.learn.rates import ijg_profile
    from edgejpeg.profile import load_profile

    options = AdaptOptions(
        epochs=args.epochs,
        batch_size=args.batch_size,
        learning_rate=args.lr,
        clean=args.clean,
        features=args.features,
        ema=args.ema,
        clean_limit=args.clean_limit / 100,
        crop_size=args.crop,
        bfloat16=args.precision == "bf16",
        seed=args.seed,
        workers=args.workers,
    )
    tables = ijg_profile(args.subsampling or "420") if args.profile is None else load_profile(args.profile)
    model = model_from(args)
    if model.notice:
        print(f"edgejpeg adapt: {model.notice}", file=sys.stderr)
    low, high = (args.target_bpp, None) if args.range is None else args.range
    document = adapt_into(
        args.output,
        model,
        args.data,
        tables,
        low=low,
        high=high,
        options=options,
        max_images=args.images,
        device=args.device,
        on_error=args.on_error,
        resume=args.resume,
    )
    if args.json:
        print(json.dumps(document, indent=1))
    else:
        _print_summary(args, document)
    if not document["clean_limit_met"]:
        print(
            f"edgejpeg adapt: notice: no weights kept within the limit of {args.clean_limit:g} points on clean images; "
            f"these lose about {100 * document['after']['clean_loss']:.1f}: try a lower --lr or more --clean",
            file=sys.stderr,
        )
    return 0


def adapt_into(
    output: Path,
    model: LoadedModel,
    data: Path,
    tables: Profile,
    *,
    low: float,
    high: float | None,
    options: AdaptOptions,
    max_images: int = 1000,
    device: str | None = None,
    on_error: str = "skip",
    resume: bool = False,
) -> dict[str, Any]:
    """Adapt a network and write the folder; returns the content of run.json."""
    from edgejpeg.errors import InvalidInputError
    from edgejpeg.learn.crops import load_photos
    from edgejpeg.learn.data import open_data
    from edgejpeg.learn.distributed import World, device_for
    from edgejpeg.learn.frozen import weights_digest
    from edgejpeg.learn.rates import measure_rates
    from edgejpeg.learn.runs import RunFolder

    if max_images < 1 or (output.exists() and not output.is_dir()):
        raise InvalidInputError(f"RUN is a folder, and images at least 1; got {str(output)!r} and {max_images}")
    encode, decode = codec()
    place = device_for(World(), device)
    opened = open_data(data)
    folder = RunFolder(
        output,
        {
            "model": model.name,
            "num_classes": model.num_classes,
            "weights": weights_digest(model.module),
            "data": opened.root.resolve().name,
            "files": len(opened),
            "images": max_images,
            "tables": tables.profile_id,
            "rates": [low, high],
            **options.trajectory(),
        },
    )
    folder.open(resume)
    photos = load_photos(
        opened,
        size=model.input_size,
        resize=model.resize,
        interpolation=model.interpolation,
        max_images=max_images,
        seed=options.seed,
        on_error=on_error,
    )
    for _, reason in photos.skipped:
        print(f"edgejpeg adapt: skipped: {reason}", file=sys.stderr)
    rates = measure_rates(tables, photos.held_out[:_RATE_IMAGES], encode, low=low, high=high)
    model.module.to(place)
    began = time.monotonic()
    result = _train(model, photos, rates, options, folder, (encode, decode), resume)
    return _write(folder, model, photos, rates, result, options, time.monotonic() - began)


def codec() -> tuple[Encode, Decode]:
    """This package's encoder and OpenCV's decoder, RGB on both sides; both can be called from threads."""
    import numpy as np

    from edgejpeg._optional import require
    from edgejpeg.errors import JpegFormatError
    from edgejpeg.runtime.encoder import Encoder

    cv2 = require("cv2", extra="camera", purpose="decoding JPEG files")
    encoders: dict[Profile, Encoder] = {}

    def encode(image: np.ndarray[Any, Any], profile: Profile) -> bytes:
        if profile not in encoders:
            encoders.setdefault(profile, Encoder(profile, color="rgb"))
        return encoders[profile].encode(image)

    def decode(data: bytes) -> np.ndarray[Any, Any]:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise JpegFormatError(f"OpenCV does not decode a file of {len(data)} bytes")
        return np.ascontiguousarray(image[:, :, ::-1])

    return encode, decode


def _train(
    model: LoadedModel,
    photos: Photos,
    rates: RateRange,
    options: AdaptOptions,
    folder: RunFolder,
    functions: tuple[Encode, Decode],
    resume: bool,
) -> Adapted:
    from tqdm import tqdm

    from edgejpeg.learn.adapt import adapt

    encode, decode = functions
    with tqdm(unit="step", desc="adapt", disable=None) as bar:

        def progress(step: int, steps: int, numbers: Mapping[str, float]) -> None:
            bar.total = steps
            bar.update(step - bar.n)
            bar.set_postfix_str(f"loss {numbers['loss']:.3f}")

        return adapt(
            model.module,
            photos,
            rates,
            encode=encode,
            decode=decode,
            mean=model.mean,
            std=model.std,
            options=options,
            folder=folder,
            resume=resume,
            progress=progress,
        )


def _write(
    folder: RunFolder,
    model: LoadedModel,
    photos: Photos,
    rates: RateRange,
    result: Adapted,
    options: AdaptOptions,
    seconds: float,
) -> dict[str, Any]:
    from edgejpeg._version import __version__
    from edgejpeg.learn.runs import PROFILE

    origin: dict[str, Any] = {
        "model": model.name,
        "original_weights": model.weights,
        "original_weights_sha256": model.weights_sha256,
        "data": folder.configuration["data"],
        "date": datetime.now(timezone.utc).date().isoformat(),
        "tool": f"edgejpeg {__version__}",
    }
    origin = {key: value for key, value in origin.items() if value is not None}
    digest = folder.write_weights(result.state)
    profile = rates.profile(f"{model.name}-adapted", {**origin, "weights_sha256": digest})
    profile.save(folder.path / PROFILE)
    document: dict[str, Any] = {
        "format": 1,
        "kind": "adaptation",
        **origin,
        "num_classes": model.num_classes,
        "weights_sha256": digest,
        "profile_id": profile.profile_id,
        "rates": {"low": rates.low, "high": rates.high, "tables": rates.source.name},
        "images": {
            "train": len(photos.train),
            "held_out": len(photos.held_out),
            "skipped": len(photos.skipped),
        },
        "options": asdict(options),
        "steps": result.steps,
        "mix": result.mix,
        "averaged": result.averaged,
        "clean_limit_met": result.clean_limit_met,
        "before": asdict(result.before),
        "after": asdict(result.after),
        "candidates": result.candidates,
        "history": result.history,
        "seconds": round(seconds, 1),
    }
    folder.write_report(document)
    return document


def _print_summary(args: argparse.Namespace, document: dict[str, Any]) -> None:
    before, after, images = document["before"], document["after"], document["images"]
    print(
        f"{images['train']} images, {images['held_out']} held out, {images['skipped']} skipped; "
        f"{document['steps']} steps; weights: {document['mix']:g} of the way to the trained ones"
        f"{' (averaged)' if document['averaged'] else ''}"
    )
    print("held out:   bpp   KL before -> after   top-1 agreement before -> after")
    for i, bpp in enumerate(after["bpp"]):
        print(
            f"          {bpp:5.3f}   {before['kl'][i]:9.4f} -> {after['kl'][i]:.4f}   "
            f"{before['agreement'][i]:16.1%} -> {after['agreement'][i]:.1%}"
        )
    print(
        f"          clean   {before['clean_kl']:9.4f} -> {after['clean_kl']:.4f}   "
        f"{before['clean_agreement']:16.1%} -> {after['clean_agreement']:.1%}; "
        f"top-1 lost, estimated: {100 * after['clean_loss']:.2f} points"
    )
    run = args.output
    print(f"wrote {run}/weights.safetensors and {run}/profile.toml ({document['profile_id']})")
    print(
        f"next: edgejpeg export --model {args.model} --weights {run}/weights.safetensors --form pixels -o served; "
        f"edgejpeg send SOURCE --to URL -p {run}/profile.toml"
    )
