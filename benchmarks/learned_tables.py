"""Learned tables against libjpeg-turbo's on images that they were not learned from: bytes at equal KL.

The profile comes from ``edgejpeg learn-tables``, which has not seen the images given here. Both sides write real files
with Huffman tables of their own; libjpeg-turbo (inside Pillow) decodes them, and the network sees 8-bit pixels.

    edgejpeg learn-tables --model squeezenet1_1 --data TRAIN --levels 8 --range .4 2.5 -o squeezenet1_1.toml
    python benchmarks/learned_tables.py --profile squeezenet1_1.toml --data HELD_OUT --no-resize
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, features

from edgejpeg.evaluate import (
    Interval,
    bootstrap_mean,
    bootstrap_weights,
    delta_rate_at_points,
    kl_divergence,
    paired_delta_rate,
    top1_agreement,
)
from edgejpeg.evaluate.plots import Series, plot_rate_curves
from edgejpeg.learn import open_data
from edgejpeg.models import LoadedModel, create_model
from edgejpeg.profile import Profile, load_profile
from edgejpeg.runtime.encoder import Encoder

QUALITIES = (11, 16, 24, 34, 48, 64, 78, 86, 90)
RESAMPLES = 2000

Encode = Callable[[NDArray[np.uint8]], bytes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--profile", type=Path, required=True, help="of edgejpeg learn-tables; it names the network")
    parser.add_argument("--weights", default="auto", help="as for edgejpeg learn-tables")
    parser.add_argument("--data", type=Path, required=True, help="a folder of images that were not learned from")
    parser.add_argument("--no-resize", action="store_true", help="cut the centre of the images as they are")
    parser.add_argument("--images", type=int, help="only so many, drawn with --seed (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--qualities", type=int, nargs="+", default=QUALITIES, help="of libjpeg-turbo (default: %(default)s)"
    )
    parser.add_argument("--output", type=Path, help="the JSON (default: benchmarks/results/learned_tables_MODEL.json)")
    parser.add_argument("--plot", type=Path, help="a picture of the curves (.png)")
    arguments = parser.parse_args()
    profile = load_profile(arguments.profile)
    name = str(profile.provenance["model"])
    model = create_model(name, arguments.weights)
    model.module.requires_grad_(False)
    images, labels = read(arguments, model)
    clean = logits(model, images)
    methods = {
        "libjpeg-turbo": measure(model, images, clean, [(q, libjpeg_turbo(q)) for q in arguments.qualities]),
        "learned tables": measure(model, images, clean, learned(profile)),
    }
    pixels = images.shape[2] * images.shape[3]
    document = {
        "benchmark": "learned_tables",
        "model": name,
        "weights_sha256": model.weights_sha256,
        "profile_id": profile.profile_id,
        "provenance": dict(profile.provenance),
        "data": arguments.data.resolve().name,
        "images": len(images),
        "seed": arguments.seed if arguments.images else None,
        "libjpeg_turbo": features.version("libjpeg_turbo"),
        "clean_top1": None if labels is None else float((clean.argmax(1) == labels).mean()),
        **compare(methods, labels, pixels),
    }
    output = arguments.output or Path(__file__).parent / "results" / f"learned_tables_{name}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    report(document)
    if arguments.plot:
        plot(document, arguments.plot)


def read(arguments: argparse.Namespace, model: LoadedModel) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None]:
    """Images (N, 3, H, W) of the network's size, and their labels where there are any."""
    batches = open_data(arguments.data).batches(
        50,
        size=model.input_size,
        resize=None if arguments.no_resize else model.resize,
        interpolation=model.interpolation,
        seed=arguments.seed if arguments.images else None,
    )
    parts = list(batches)
    images = np.concatenate([batch.images for batch in parts])[: arguments.images]
    if parts[0].labels is None:
        return images, None
    return images, np.concatenate([batch.labels for batch in parts])[: arguments.images]


def logits(model: LoadedModel, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, classes) of uint8 RGB images."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (model.mean, model.std))
    parts = []
    with torch.no_grad():
        for first in range(0, len(images), 25):
            inputs = (torch.from_numpy(images[first : first + 25]).float() - mean) / std
            parts.append(model.module(inputs.contiguous(memory_format=torch.channels_last)).numpy())
    return np.concatenate(parts)


def libjpeg_turbo(quality: int) -> Encode:
    """Pillow's encoder: the IJG's tables, 4:2:0, Huffman tables made for each file."""

    def encode(rgb: NDArray[np.uint8]) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(rgb).save(buffer, "JPEG", quality=quality, subsampling="4:2:0", optimize=True)
        return buffer.getvalue()

    return encode


def learned(profile: Profile) -> list[tuple[float, Encode]]:
    """Our encoder at every level, Huffman tables made for each file too."""
    if profile.kind == "fixed":
        return [(0, Encoder(profile, color="rgb", effort=1).encode)]
    return [
        (number, Encoder(profile.at_level(number), color="rgb", effort=1).encode)
        for number in range(len(profile.levels))
    ]


def measure(
    model: LoadedModel,
    images: NDArray[np.uint8],
    clean: NDArray[np.float32],
    settings: Sequence[tuple[float, Encode]],
) -> dict[str, NDArray[Any]]:
    """Bytes, KL, agreement and top class, each (settings, images)."""
    found: dict[str, list[Any]] = {"setting": [], "bytes": [], "kl": [], "agrees": [], "top1": []}
    for setting, encode in settings:
        files = [encode(np.ascontiguousarray(image.transpose(1, 2, 0))) for image in images]
        decoded = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).transpose(2, 0, 1) for data in files]
        outputs = logits(model, np.stack(decoded))
        found["setting"].append(setting)
        found["bytes"].append([len(data) for data in files])
        found["kl"].append(kl_divergence(clean, outputs))
        found["agrees"].append(top1_agreement(clean, outputs))
        found["top1"].append(outputs.argmax(1))
        bpp = np.mean(found["bytes"][-1]) * 8 / images[0, 0].size
        print(f"  {setting:5g}  {bpp:.3f} bpp  KL {found['kl'][-1].mean():.4f}", flush=True)
    return {key: np.array(values) for key, values in found.items()}


def compare(
    methods: dict[str, dict[str, NDArray[Any]]], labels: NDArray[np.int64] | None, pixels: int
) -> dict[str, Any]:
    """Points with intervals, the delta rate at equal KL over the common range, and the change at each quality."""
    reference, ours = methods["libjpeg-turbo"], methods["learned tables"]
    weights = bootstrap_weights(reference["bytes"].shape[1], resamples=RESAMPLES, seed=0)
    points = {}
    for name, method in methods.items():
        points[name] = [
            {
                "setting": float(method["setting"][i]),
                "bpp": float(method["bytes"][i].mean() * 8 / pixels),
                "kl": bootstrap_mean(method["kl"][i], weights).to_dict(),
                "agreement": bootstrap_mean(method["agrees"][i], weights).to_dict(),
                "top1": None if labels is None else float((method["top1"][i] == labels).mean()),
            }
            for i in range(len(method["setting"]))
        ]
    result: dict[str, Any] = {"points": points, "resamples": RESAMPLES}
    if len(ours["setting"]) == 1:
        # One level is no curve: the reference's is read at its KL.
        (more,) = delta_rate_at_points((ours["bytes"], ours["kl"]), (reference["bytes"], reference["kl"]), weights)
        if more is not None:
            ends = (1 / (1 + value) - 1 for value in (more.value, more.high, more.low))
            result["change"] = Interval(*ends, more.level).to_dict()
    else:
        pair = (reference["bytes"], reference["kl"]), (ours["bytes"], ours["kl"])
        delta = paired_delta_rate(*pair, weights)
        result["delta_rate"] = {**delta.change.to_dict(), "kl_low": delta.low, "kl_high": delta.high}
        result["changes"] = [
            {"setting": float(reference["setting"][i]), "bpp": float(reference["bytes"][i].mean() * 8 / pixels)}
            | ({"change": None} if change is None else {"change": change.to_dict()})
            for i, change in enumerate(delta_rate_at_points(*pair, weights))
        ]
    return result


def report(document: dict[str, Any]) -> None:
    print(f"{document['model']}, {document['images']} images of {document['data']}")
    if document.get("change"):
        change = document["change"]
        print(f"bytes at the level's KL: {change['value']:+.1%} ({change['low']:+.1%} to {change['high']:+.1%})")
    if "delta_rate" not in document:
        return
    delta = document["delta_rate"]
    print(
        f"bytes at equal KL: {delta['value']:+.1%} ({delta['low']:+.1%} to {delta['high']:+.1%}), "
        f"KL {delta['kl_low']:.3g} to {delta['kl_high']:.3g}"
    )
    for row in document["changes"]:
        if row["change"]:
            change = row["change"]
            print(
                f"  q{row['setting']:g} ({row['bpp']:.2f} bpp): {change['value']:+.1%} "
                f"({change['low']:+.1%} to {change['high']:+.1%})"
            )


def plot(document: dict[str, Any], path: Path) -> None:
    series = [
        Series(
            name,
            [point["bpp"] for point in points],
            [Interval(**point["kl"]) for point in points],
            [Interval(**point["agreement"]) for point in points],
        )
        for name, points in reversed(document["points"].items())
    ]
    changes = [(row["bpp"], Interval(**row["change"])) for row in document.get("changes", []) if row["change"]]
    note = (
        f"{document['model']}; {document['images']} images of {document['data']}, none of them learned from; "
        "4:2:0, optimised Huffman; 95 % bootstrap intervals"
    )
    plot_rate_curves(series, path, changes=changes, note=note)


if __name__ == "__main__":
    main()
