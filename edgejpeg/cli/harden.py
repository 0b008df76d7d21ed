"""Make a trained JPEG layer a profile, and say what is left of the network's accuracy on the way to a real file.

RUN is the folder of edgejpeg train, DIR labelled images that it was not trained on. Four rungs are measured on them:
Q_d; Q_u with the same steps; Q_u with integer tables; and files of this package's encoder, decoded by
libjpeg-turbo. A run without a layer (the baseline) is measured with the tables of --profile.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejpeg.cli.arguments import add_on_error_argument, positive_int

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch

    from edgejpeg.evaluate.rungs import RungFigures
    from edgejpeg.learn.harden import Hardened
    from edgejpeg.learn.training_batches import EvaluationBatches
    from edgejpeg.learn.training_data import LabelledImages
    from edgejpeg.learn.training_run import TrainedRun
    from edgejpeg.profile import Profile

HELP = "a trained JPEG layer to a profile: the four rungs from Q_d to a real file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="what edgejpeg train wrote")
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data",
        required=True,
        metavar="DIR",
        help="labelled images, as for edgejpeg train: class folders or labels.csv, a .zip, shards, NAME:ROOT",
    )
    add_on_error_argument(data)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="the profile to write (.toml)")
    parser.add_argument(
        "-p", "--profile", help="for a run without a layer: a fixed profile whose files it is measured on"
    )
    parser.add_argument(
        "--effort",
        type=int,
        choices=(0, 1),
        help="entropy coding: 0 stored Huffman tables, 1 optimal ones (default: the recipe's, which is 1 by default)",
    )
    parser.add_argument("--images", type=positive_int, help="at most so many, evenly spread (default: all)")
    parser.add_argument("--batch-size", type=positive_int, default=64, help="(default: %(default)s)")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: a GPU when there is one)")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object, and nothing else")


def run(args: argparse.Namespace) -> int:
    """Measure, write the profile, print the table."""
    from edgejpeg._optional import require
    from edgejpeg.errors import InvalidInputError

    for module in ("torch", "PIL", "tqdm", "safetensors"):
        require(module, extra="train", purpose="edgejpeg harden")
    if args.output is None and args.profile is None:
        raise InvalidInputError("give -o FILE.toml for the profile (or -p PROFILE for a run without a layer)")
    if args.output is not None and (args.output.suffix != ".toml" or args.output.is_dir()):
        raise InvalidInputError(f"the output is a file that ends in .toml; got {str(args.output)!r}")
    if args.output is not None and not args.output.parent.is_dir():
        raise InvalidInputError(f"cannot write {args.output}: no folder {args.output.parent}; make it first")
    document, lines = harden_run(
        args.run_folder,
        args.data,
        args.output,
        profile=args.profile,
        effort=args.effort,
        max_images=args.images,
        batch_size=args.batch_size,
        device=args.device,
        on_error=args.on_error,
    )
    print(json.dumps(document, indent=1) if args.json else "\n".join(lines))
    return 0


def harden_run(
    folder: Path,
    data: str | Path,
    output: Path | None = None,
    *,
    profile: str | None = None,
    effort: int | None = None,
    max_images: int | None = None,
    batch_size: int = 64,
    device: str | None = None,
    on_error: str = "fail",
) -> tuple[dict[str, Any], list[str]]:
    """Measure the rungs of a run and write its profile; returns the figures and the lines to print."""
    from edgejpeg.evaluate.rungs import rung_figures

    trained, images, result, skipped = measure_run(
        folder,
        data,
        output,
        profile=profile,
        effort=effort,
        max_images=max_images,
        batch_size=batch_size,
        device=device,
        on_error=on_error,
    )
    for reason in skipped:
        print(f"edgejpeg harden: skipped: {reason}", file=sys.stderr)
    rows = rung_figures(result)
    document = _document(trained, images, result, rows, len(skipped))
    if output is not None:
        final = _with_provenance(result.profile, document)
        final.save(output)
        document["profile"] = {"file": output.name, "profile_id": final.profile_id}
    return document, _lines(folder, output, trained, result, rows, document)


def measure_run(
    folder: Path,
    data: str | Path,
    output: Path | None = None,
    *,
    profile: str | None = None,
    effort: int | None = None,
    max_images: int | None = None,
    batch_size: int = 64,
    device: str | None = None,
    on_error: str = "fail",
) -> tuple[TrainedRun, LabelledImages, Hardened, list[str]]:
    """The run, the images, the rungs with every image's logits, and what could not be read."""
    from edgejpeg.cli.adapt import codec
    from edgejpeg.learn.distributed import World, device_for
    from edgejpeg.learn.harden import harden
    from edgejpeg.learn.training_data import open_images
    from edgejpeg.learn.training_run import load_run

    encode, decode = codec()
    place = device_for(World(), device)
    trained = load_run(folder, place)
    tables = _tables(trained, profile, effort, output)
    opened = open_images(data, test=True)
    _check_classes(opened, trained)
    batches = _batches(opened, trained, place, max_images, batch_size, on_error)
    model = trained.model
    result = harden(
        model.module,
        trained.layer,
        _progress(batches),
        mean=model.mean,
        std=model.std,
        profile=tables,
        encode=encode,
        decode=decode,
    )
    return trained, opened, result, list(batches.skipped)


def _tables(trained: TrainedRun, given: str | None, effort: int | None, output: Path | None) -> Profile:
    """The profile of the files: the layer's, or the one that was given."""
    from dataclasses import replace

    from edgejpeg.errors import InvalidInputError
    from edgejpeg.profile import load_profile

    if trained.layer is not None:
        if given is not None:
            raise InvalidInputError(f"the run {str(trained.path)!r} has tables of its own; leave out --profile")
        rate = trained.recipe.layer.rate
        chosen = rate.effort if effort is None else effort
        return trained.layer.profile(f"{trained.model.name}-{trained.path.name}", effort=chosen)
    if given is None:
        raise InvalidInputError(
            f"the run {str(trained.path)!r} has no JPEG layer (it is the baseline arm), so no tables to harden; "
            "-p PROFILE measures it on files with the tables of a fixed profile"
        )
    if output is not None:
        raise InvalidInputError("a run without a layer has no tables of its own to write; leave out -o")
    profile = load_profile(given)
    return profile if effort is None else replace(profile, effort=effort)


def _check_classes(images: LabelledImages, trained: TrainedRun) -> None:
    from edgejpeg.errors import DataError

    expected = trained.report["class_names"]
    if expected and images.class_names and list(images.class_names) != list(expected):
        raise DataError(
            f"the classes of {images.name} are {_few(images.class_names)}; the run {str(trained.path)!r} was trained "
            f"on {_few(expected)}: give images of the same classes"
        )
    if images.num_classes > trained.model.num_classes:
        raise DataError(
            f"{images.name} has {images.num_classes} classes, and the network of {str(trained.path)!r} "
            f"{trained.model.num_classes}: give images of the same classes"
        )


def _few(names: Sequence[str]) -> str:
    listed = ", ".join(map(str, names[:3]))
    return f"{listed}, ... ({len(names)})" if len(names) > 3 else listed


def _batches(
    images: LabelledImages,
    trained: TrainedRun,
    place: torch.device,
    count: int | None,
    batch_size: int,
    on_error: str,
) -> EvaluationBatches:
    """The centre crops that the training was evaluated on."""
    from dataclasses import replace

    import numpy as np

    from edgejpeg.learn.augment import Augmentation
    from edgejpeg.learn.distributed import World
    from edgejpeg.learn.training_batches import EvaluationBatches

    model, run = trained.model, trained.recipe.run
    some = np.linspace(0, len(images) - 1, min(count or len(images), len(images))).round().astype(np.int64)
    return EvaluationBatches(
        images=images,
        indices=some,
        augmentation=Augmentation(trained.recipe.data, model.input_size, model.resize, model.interpolation, run.seed),
        run=replace(run, batch_size=batch_size, workers=0, cache="off"),
        world=World(),
        device=place,
        on_error=on_error,
    )


def _progress(batches: EvaluationBatches) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    from tqdm import tqdm

    with tqdm(total=len(batches.indices), unit="image", desc="harden", disable=None) as bar:
        for images, labels in batches:
            yield images, labels
            bar.update(len(images))


def _document(
    trained: TrainedRun, data: LabelledImages, result: Hardened, rows: list[RungFigures], skipped: int
) -> dict[str, Any]:
    report = trained.report
    rate = rows[-1].bpp
    assert rate is not None
    target = trained.recipe.layer.rate.target_bpp if trained.layer is not None else None
    return {
        "format": 1,
        "kind": "hardening",
        "run": trained.path.name,
        "model": trained.model.name,
        "num_classes": trained.model.num_classes,
        "weights_sha256": report["weights_sha256"],
        "layer_sha256": report["layer_sha256"],
        "recipe": report["recipe"].get("description", ""),
        "seed": report.get("seed"),
        "epochs": report.get("epochs"),
        "data": data.name,
        "images": len(result.labels),
        "skipped": skipped,
        "input_size": list(trained.model.input_size),
        "subsampling": result.profile.subsampling,
        "effort": result.profile.effort,
        "rungs": [row.to_dict() for row in rows],
        "identical_pixels": result.identical,
        "largest_pixel_difference": result.largest_difference,
        "target_bpp": target,
        "bpp_off_target": None if target is None else rate.value / target - 1,
        "tables": {
            name: {
                "values": steps.values.tolist(),
                "table": steps.table.array.tolist(),
                "at_lowest": steps.at_low,
                "at_highest": steps.at_high,
                "below_one": steps.below_one,
                "clipped_dc": steps.clipped[0],
                "clipped_ac": steps.clipped[1],
            }
            for name, steps in (("luma", result.luma), ("chroma", result.chroma))
            if steps is not None
        },
    }


def _with_provenance(profile: Profile, document: dict[str, Any]) -> Profile:
    from dataclasses import replace

    from edgejpeg._version import __version__

    last = document["rungs"][-1]
    provenance = {
        "method": "JPEG-DL, hardened",
        **{
            key: document[key]
            for key in (
                "model", "num_classes", "weights_sha256", "layer_sha256", "run", "recipe", "seed", "epochs", "data",
                "images", "input_size", "target_bpp",
            )
        },
        "top1": round(last["accuracy"]["value"], 6),
        "top1_change": round(last["difference"]["value"], 6),
        "kl": float(f"{last['kl']['value']:.4g}"),
        "bpp": round(last["bpp"]["value"], 6),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "tool": f"edgejpeg {__version__}",
    }  # fmt: skip
    return replace(profile, provenance={key: value for key, value in provenance.items() if value not in (None, "")})


def _lines(
    folder: Path,
    output: Path | None,
    trained: TrainedRun,
    result: Hardened,
    rows: list[RungFigures],
    document: dict[str, Any],
) -> list[str]:
    from edgejpeg.evaluate.rungs import rung_table, step_notes

    height, width = trained.model.input_size
    count = len(result.labels)
    lines = [
        f"{trained.model.name}, {count} images of {document['data']}, {width}x{height}, {result.profile.subsampling}, "
        f"effort {result.profile.effort}; intervals: 95 %, paired with rung 1",
        *rung_table(rows, height * width),
    ]
    if document["target_bpp"] is not None:
        lines.append(f"asked for {document['target_bpp']:g} bpp: {document['bpp_off_target']:+.1%}")
    same = f"the hardened layer gives the pixels of {result.identical} of {count} files to the bit"
    lines.append(same if result.identical == count else f"{same}, of the others within {result.largest_difference}")
    if trained.layer is not None:
        for name, steps in (("luma", result.luma), ("chroma", result.chroma)):
            assert steps is not None
            lines += step_notes(name, steps, trained.layer.q_min, trained.layer.q_max)
        if trained.layer.upsampling == "plain":
            lines.append("the layer repeats chroma samples; libjpeg-turbo, which read the files, interpolates them")
    if output is not None:
        size = f"--size {min(height, width)} --resize {trained.model.resize}"
        lines += [
            f"wrote {output} ({document['profile']['profile_id']})",
            f"next: edgejpeg export --model {trained.model.name} --weights {shlex.quote(str(folder))} --form pixels "
            f"-o served; edgejpeg serve --model served/*.onnx; edgejpeg send SOURCE --to URL "
            f"-p {shlex.quote(str(output))} {size}",
        ]
    return lines
