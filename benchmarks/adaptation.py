"""Adaptation without labels against the frozen network with libjpeg-turbo's tables: bytes at equal top-1 and equal KL.

The networks are adapted on imagenet-train1000, and measured on imagenet-val800, by which nothing was chosen. Both arms
are real files, 4:2:0 with optimal Huffman tables, decoded by libjpeg-turbo: the reference is Pillow's (libjpeg-turbo)
at qualities of the IJG and the network as it was; ours is the profile and the weights that ``edgejpeg adapt`` wrote.

    python benchmarks/adaptation.py train --network squeezenet1_1 --shared DATA --runs RUNS
    python benchmarks/adaptation.py measure --shared DATA --runs RUNS --json benchmarks/results/adaptation.json
    python benchmarks/adaptation.py plot --json benchmarks/results/adaptation.json --output docs/adaptation.png

DATA has images/imagenet-train1000, images/imagenet-val800 and models/ (their README says what they are).
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgejpeg.errors import InvalidInputError
from edgejpeg.evaluate import Interval, bootstrap_difference, bootstrap_mean, bootstrap_weights, kl_divergence
from edgejpeg.evaluate.curves import paired_delta_rate
from edgejpeg.evaluate.metrics import percentile_interval, weighted_means

if TYPE_CHECKING:
    import torch

    from edgejpeg.models import LoadedModel

Pixels = NDArray[np.uint8]

NETWORKS = ("squeezenet1_1", "efficientnet_lite0", "mobilenet_v2")
RATES = {"squeezenet1_1": (0.35, 1.2), "efficientnet_lite0": (0.3, 1.0), "mobilenet_v2": (0.3, 1.0)}
QUALITIES = (8, 12, 18, 27, 40, 60, 80)
LEVELS = (0, 2, 4, 6, 7)  # of the ladder that adapt writes
LOSSES = (0.03, 0.045, 0.06, 0.075, 0.09, 0.105, 0.12)  # of top-1, where bytes are compared
RESAMPLES = 1000
COLOURS = ("#6B6B6B", "#0072B2", "#D55E00")
RUN_KEYS = ("rates", "images", "options", "steps", "mix", "before", "after", "clean_limit_met")
ARMS = {"guarded": 0.01, "unguarded": 0.99}  # how much top-1 on clean images the choice may cost, as held out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    train = verbs.add_parser("train", help="adapt one network")
    train.add_argument("--network", choices=NETWORKS, required=True)
    train.add_argument("--epochs", type=int, default=12)
    train.add_argument("--lr", type=float, default=2e-4)
    train.add_argument("--features", type=float, default=100.0, help="weight of the feature maps' distance")
    train.add_argument("--crop", type=int, help="side of the training crops")
    train.add_argument("--threads", type=int, default=1)
    train.add_argument("--resume", action="store_true")
    measure = verbs.add_parser("measure", help="measure the networks that were adapted")
    measure.add_argument("--threads", type=int, default=1)
    measure.add_argument("--images", type=int, default=800)
    measure.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    for verb in (train, measure):
        verb.add_argument("--shared", type=Path, required=True, metavar="DATA")
        verb.add_argument("--runs", type=Path, required=True, metavar="RUNS")
    plot = verbs.add_parser("plot", help="draw the curves")
    plot.add_argument("--output", type=Path, required=True)
    for verb in (measure, plot):
        verb.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    {"train": run_train, "measure": run_measure, "plot": run_plot}[args.verb](args)


def load_network(name: str, shared: Path, weights: Path | None = None) -> LoadedModel:
    """A network of the shared data as it was, or with adapted weights."""
    from edgejpeg.models import create_model

    files = {
        "squeezenet1_1": shared / "models" / "squeezenet1_1_tv_fp16w.safetensors",
        "mobilenet_v2": shared / "models" / "mobilenet_v2_coral_ptq.safetensors",
    }
    source = weights or files.get(name)
    model = create_model(name, "auto" if source is None else str(source))
    if name == "mobilenet_v2":  # these weights were trained in TensorFlow
        same_padding(model.module)
        model = replace(model, mean=(127.5, 127.5, 127.5), std=(127.5, 127.5, 127.5))
    return model


def same_padding(module: torch.nn.Module) -> None:
    """Give the 3x3 convolutions of stride 2 TensorFlow's "SAME" padding: for even sizes, below and right alone."""
    import torch
    from torch.nn import functional as F  # noqa: N812  (torch's own name for it)

    def pad(_: torch.nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
        (x,) = inputs
        above, left = x.shape[-2] % 2, x.shape[-1] % 2
        return F.pad(x, (left, 1, above, 1))

    for convolution in module.modules():
        if isinstance(convolution, torch.nn.Conv2d) and convolution.stride == (2, 2):
            convolution.padding = (0, 0)
            convolution.register_forward_pre_hook(pad)


def run_train(args: argparse.Namespace) -> None:
    import torch

    from edgejpeg.cli.adapt import adapt_into
    from edgejpeg.learn.adapt import AdaptOptions
    from edgejpeg.learn.rates import ijg_profile

    torch.set_num_threads(args.threads)
    low, high = RATES[args.network]
    document: dict[str, Any] = {}
    for arm, limit in ARMS.items():
        folder = args.runs / f"{args.network}-{arm}"
        again = arm != next(iter(ARMS))
        if again:  # the same trained weights; only the choice between them and the original's may differ
            best = min(document["candidates"], key=lambda entry: np.log(entry["kl"]).mean())
            if best["mix"] == document["mix"]:
                break
            shutil.copytree(args.runs / f"{args.network}-{next(iter(ARMS))}", folder, dirs_exist_ok=True)
        document = adapt_into(
            folder,
            load_network(args.network, args.shared),
            args.shared / "images" / "imagenet-train1000",
            ijg_profile(),
            low=low,
            high=high,
            options=AdaptOptions(
                epochs=args.epochs,
                learning_rate=args.lr,
                features=args.features,
                crop_size=args.crop,
                bfloat16=True,
                clean_limit=limit,
            ),
            resume=args.resume or again,
        )
        print(arm, json.dumps({key: document[key] for key in ("mix", "steps", "before", "after", "seconds")}))


def run_measure(args: argparse.Namespace) -> None:
    import torch

    torch.set_num_threads(args.threads)
    images, labels = validation_images(args.shared / "images" / "imagenet-val800", args.images)
    weights = bootstrap_weights(len(images), resamples=RESAMPLES)
    results: dict[str, Any] = {}
    for name in args.networks:
        if (args.runs / f"{name}-{next(iter(ARMS))}" / "weights.safetensors").exists():
            results[name] = measure_network(name, args, images, labels, weights)
    if args.json.exists():  # measured before, others perhaps in the meantime
        results = json.loads(args.json.read_text(encoding="utf-8"))["networks"] | results
    document = {
        "benchmark": "adaptation",
        "reference": "libjpeg-turbo (Pillow), IJG tables, optimal Huffman tables, 4:2:0, frozen network",
        "interval": f"95 %, paired bootstrap by image, {RESAMPLES} resamples",
        "networks": {name: results[name] for name in NETWORKS if name in results},
    }
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def validation_images(folder: Path, count: int) -> tuple[list[Pixels], NDArray[np.int64]]:
    """The centre 224x224 of the images, evenly spread over the list, and their classes."""
    from edgejpeg.learn.data import read_image

    with (folder / "labels.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    chosen = [rows[int(i)] for i in np.linspace(0, len(rows) - 1, min(count, len(rows))).round()]
    images = [read_image(folder / row["file"], size=(224, 224)).transpose(1, 2, 0) for row in chosen]
    return [np.ascontiguousarray(image) for image in images], np.array([int(row["class"]) for row in chosen])


def measure_network(
    name: str, args: argparse.Namespace, images: list[Pixels], labels: NDArray[np.int64], weights: NDArray[np.float64]
) -> dict[str, Any]:
    from edgejpeg.cli.adapt import codec
    from edgejpeg.profile import load_profile

    frozen = load_network(name, args.shared)
    encode, decode = codec()
    clean = logits(frozen, images)
    right = clean.argmax(axis=1) == labels

    def curve(model: LoadedModel, encoders: Sequence[tuple[str, Callable[[Pixels], bytes]]]) -> dict[str, Any]:
        points = []
        for setting, encoder in encoders:
            files = [encoder(image) for image in images]
            answers = logits(model, [decode(data) for data in files])
            points.append((setting, [len(f) * 8 / 224**2 for f in files], kl_divergence(clean, answers), answers))
            print(f"{name} {setting}: {np.mean(points[-1][1]):.3f} bpp, KL {points[-1][2].mean():.4f}", flush=True)
        points.sort(key=lambda point: np.mean(point[1]))
        tops = np.stack([answers.argmax(axis=1) for *_, answers in points])
        return {
            "settings": [point[0] for point in points],
            "bpp": np.array([point[1] for point in points]),
            "kl": np.array([point[2] for point in points]),
            "correct": tops == labels,
            "agreement": tops == clean.argmax(axis=1),
        }

    reference = curve(frozen, [(f"quality {q}", ijg_encoder(q)) for q in QUALITIES])
    result: dict[str, Any] = {
        "images": len(images),
        "clean_top1": bootstrap_mean(right, weights).to_dict(),
        "frozen": summary(reference, weights),
        "arms": {},
    }
    for folder in (args.runs / f"{name}-{arm}" for arm in ARMS):
        if not (folder / "run.json").exists():  # the limit changed nothing
            continue
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        adapted = load_network(name, args.shared, folder / "weights.safetensors")
        profile = load_profile(folder / "profile.toml")
        levels = [(f"level {i}", profile_encoder(encode, profile.at_level(i))) for i in LEVELS]
        ours = curve(adapted, levels)
        correct = logits(adapted, images).argmax(axis=1) == labels
        result["arms"][folder.name.rpartition("-")[2]] = {
            "run": {key: run[key] for key in RUN_KEYS},
            "clean_top1": bootstrap_mean(correct, weights).to_dict(),
            "clean_top1_change": bootstrap_difference(correct, right, weights).to_dict(),
            "bytes_at_equal_top1": equal_loss(reference, ours, right, weights),
            "delta_rate_at_equal_kl": delta(reference, ours, weights),
            "curve": summary(ours, weights),
        }
    return result


def ijg_encoder(quality: int) -> Callable[[Pixels], bytes]:
    from PIL import Image

    def encode(image: Pixels) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "JPEG", quality=quality, subsampling="4:2:0", optimize=True)
        return stream.getvalue()

    return encode


def profile_encoder(encode: Callable[[Pixels, Any], bytes], profile: Any) -> Callable[[Pixels], bytes]:
    return lambda image: encode(image, profile)


def logits(model: LoadedModel, images: Sequence[Pixels]) -> NDArray[np.float32]:
    import torch

    parts = []
    module = model.module.to(memory_format=torch.channels_last)
    with torch.no_grad():
        for first in range(0, len(images), 40):
            batch = torch.from_numpy(np.stack(images[first : first + 40])).permute(0, 3, 1, 2)
            parts.append(module(model.normalise(batch).contiguous(memory_format=torch.channels_last)).numpy())
    return np.concatenate(parts)


def delta(reference: dict[str, Any], ours: dict[str, Any], weights: NDArray[np.float64]) -> dict[str, Any]:
    """Delta rate at equal KL over the range that both curves cover."""
    found = paired_delta_rate((reference["bpp"], reference["kl"]), (ours["bpp"], ours["kl"]), weights)
    return {**found.change.to_dict(), "kl": [found.low, found.high]}


def equal_loss(
    reference: dict[str, Any], ours: dict[str, Any], clean: NDArray[np.bool_], weights: NDArray[np.float64]
) -> dict[str, Any]:
    """Bytes of ours over the reference's where both have lost the same part of the frozen network's clean top-1."""
    top1 = weighted_means(clean, weights)
    full = [change_at_losses(reference["bpp"].mean(1), reference["correct"].mean(1), ours["bpp"].mean(1),
                             ours["correct"].mean(1), float(clean.mean()))]  # fmt: skip
    bpp_r, top_r, bpp_o, top_o = (
        weighted_means(curve[key], weights) for curve in (reference, ours) for key in ("bpp", "correct")
    )
    drawn = np.array(
        [change_at_losses(bpp_r[:, i], top_r[:, i], bpp_o[:, i], top_o[:, i], top1[i]) for i in range(len(top1))]
    )
    return {
        "losses": list(LOSSES),
        "changes": [interval(full[0][i], drawn[:, i]) for i in range(len(LOSSES))],
        "mean": interval(geometric(full[0]), np.array([geometric(row) for row in drawn])),
    }


def geometric(changes: NDArray[np.float64]) -> float:
    """The mean change of log rate over the losses that both curves reach."""
    return float(np.expm1(np.log1p(changes[np.isfinite(changes)]).mean())) if np.isfinite(changes).any() else np.nan


def change_at_losses(
    bpp_r: NDArray[np.float64],
    top_r: NDArray[np.float64],
    bpp_o: NDArray[np.float64],
    top_o: NDArray[np.float64],
    clean: float,
) -> NDArray[np.float64]:
    """The relative change of bytes at each loss; NaN where a curve does not reach it."""
    wanted = clean - np.array(LOSSES)
    return rate_at(bpp_o, top_o, wanted) / rate_at(bpp_r, top_r, wanted) - 1.0


def rate_at(bpp: NDArray[np.float64], top1: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rate of a top-1, log-linear between points, whose top-1 is made to rise by pooling; NaN outside."""
    blocks: list[list[float]] = []
    for x, y in sorted(zip(np.log(bpp), top1, strict=True)):
        block = [x, y, 1.0]
        while blocks and block[1] <= blocks[-1][1]:
            last = blocks.pop()
            total = last[2] + block[2]
            block = [*((last[k] * last[2] + block[k] * block[2]) / total for k in (0, 1)), total]
        blocks.append(block)
    x, y = np.array(blocks)[:, 0], np.array(blocks)[:, 1]
    rates: NDArray[np.float64] = np.exp(np.interp(wanted, y, x, left=np.nan, right=np.nan))
    return rates


def interval(value: float, drawn: NDArray[np.float64]) -> dict[str, float] | None:
    """With the part of the resamples in which both curves reach the loss, at least nine tenths; else None."""
    found = drawn[np.isfinite(drawn)]
    if not np.isfinite(value) or found.size * 10 < drawn.size * 9:
        return None
    return percentile_interval(value, found).to_dict()


def summary(curve: dict[str, Any], weights: NDArray[np.float64]) -> dict[str, Any]:
    document: dict[str, Any] = {
        "settings": curve["settings"],
        "bpp": [round(float(v), 4) for v in curve["bpp"].mean(1)],
    }
    for key in ("kl", "correct", "agreement"):
        document["top1" if key == "correct" else key] = [
            {k: round(v, 5) for k, v in bootstrap_mean(row, weights).to_dict().items()} for row in curve[key]
        ]
    return document


def run_plot(args: argparse.Namespace) -> None:
    """Top-1 over rate for each network: frozen with libjpeg-turbo's tables, and adapted."""
    from matplotlib.figure import Figure

    document = json.loads(args.json.read_text(encoding="utf-8"))
    networks = document["networks"]
    if not networks:
        raise InvalidInputError(f"{args.json} has no networks; run the measure step first")
    figure = Figure(figsize=(4.2 * len(networks), 4.0), dpi=150, facecolor="white", layout="constrained")
    axes = figure.subplots(1, len(networks), squeeze=False)[0]
    for one, (name, result) in zip(axes, networks.items(), strict=True):
        curves = {"frozen, libjpeg-turbo's tables": result["frozen"]}
        curves |= {f"adapted, {arm}": entry["curve"] for arm, entry in result["arms"].items()}
        for (text, curve), colour, marker in zip(curves.items(), COLOURS, "so^", strict=False):
            values = [Interval(**entry) for entry in curve["top1"]]
            one.fill_between(
                curve["bpp"], [v.low for v in values], [v.high for v in values], color=colour, alpha=0.12, linewidth=0
            )
            one.plot(curve["bpp"], [v.value for v in values], color=colour, marker=marker, ms=4, lw=1.8, label=text)
        one.axhline(result["clean_top1"]["value"], color="#999999", lw=1, ls=":")
        one.set_xscale("log")
        one.set_xticks([0.3, 0.5, 1.0, 2.0], ["0.3", "0.5", "1", "2"])
        one.minorticks_off()
        one.set_title(name, loc="left", fontweight="bold", fontsize=11)
        one.set_xlabel("bits per pixel of the whole file")
        one.grid(color="#e4e4e4", lw=0.8)
        one.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("top-1")
    axes[0].legend(loc="lower right", frameon=False)
    counts = " / ".join(str(entry["images"]) for entry in networks.values())
    note = f"{counts} validation images, 4:2:0, optimal Huffman tables; bands: 95 %; dotted: frozen, clean"
    figure.supxlabel(note, fontsize=8.5, color="#666666", x=0.01, ha="left")
    figure.savefig(args.output)


if __name__ == "__main__":
    main()
