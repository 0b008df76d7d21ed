"""JPEG-DL against the network alone: arms x seeds, trained one after another, hardened, and compared in pairs.

    python benchmarks/training.py train --set-up cifar10 --shared DATA --runs RUNS --seeds 0 1 2 --epochs 60
    python benchmarks/training.py measure --set-up cifar10 --shared DATA --runs RUNS --json results/training.json
    python benchmarks/training.py all --quick --runs RUNS --json FILE       # scikit-learn's digits, about two minutes

Both steps go on where they stopped. The arms differ in the layer alone; the last epoch counts, and test images choose
nothing. DATA has images/cifar10 and images/flowers12 (its README says what they are).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgejpeg.errors import DataError, InvalidInputError
from edgejpeg.evaluate import bootstrap_difference, bootstrap_mean, bootstrap_weights

RESAMPLES = 1000
LAST_EPOCHS = 5


@dataclass(frozen=True)
class SetUp:
    """A network, its data and what is common to all arms.

    Attributes:
        model, train, test: for ``edgejpeg train``; the data below the shared folder.
        recipe: of the network, with the authors' layer.
        settings: on top of it.
        target_bpp: of our arm.
    """

    model: str
    train: str
    test: str
    recipe: str
    settings: tuple[str, ...]
    target_bpp: float


SET_UPS = {
    "cifar10": SetUp(
        "cifar_resnet20", "images/cifar10/cifar10_train_jpg.zip", "images/cifar10/cifar10_test_jpg.zip", "cifar100",
        ("schedule.kind=cosine", "run.workers=0"), 4.0,
    ),
    "flowers12": SetUp(
        "resnet18", "images/flowers12/train", "images/flowers12/test", "finegrained", ("run.workers=4",), 1.5
    ),
    "digits": SetUp(
        "cifar_resnet20", "train", "test", "cifar100",
        ("data.size=16", "data.pad=2", "data.flip=0", "schedule.kind=cosine", "run.workers=0",
         "run.batch_size=20", "layer.initial_images=100"),
        10.0,
    ),
}  # fmt: skip

ARMS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "baseline": ((), ("layer.enabled=false",)),
    "authors": ((), ()),
    "authors, no clip": ((), ("layer.clip=false",)),
    "exact": ((), ("layer.window=exact",)),
    "exact, no clip": ((), ("layer.window=exact", "layer.clip=false")),
    "ours": (("edgejpeg",), ("layer.rate.weight=none", "layer.rate.target_bpp=TARGET")),
}
"""Recipes laid over the network's, and settings."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("step", choices=("train", "measure", "all"))
    parser.add_argument("--set-up", choices=[name for name in SET_UPS if name != "digits"], default="cifar10")
    parser.add_argument("--quick", action="store_true", help="digits, one seed, two epochs")
    parser.add_argument("--shared", type=Path, metavar="DATA")
    parser.add_argument("--runs", type=Path, required=True, metavar="RUNS")
    parser.add_argument("--json", type=Path, help="the results, for measure")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="default: the recipe's")
    parser.add_argument("--target-bpp", type=float, help="of our arm (default: the set-up's)")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="for all arms")
    parser.add_argument("--weights", default="none", help="first weights, as of edgejpeg train (default: random)")
    for name in ("--mean", "--std"):
        parser.add_argument(name, nargs=3, metavar=("R", "G", "B"), help="of these weights, as of edgejpeg train")
    parser.add_argument("--device")
    parser.add_argument("--images", type=int, help="test images to measure on (default: all)")
    args = parser.parse_args(argv)
    args.runs.mkdir(parents=True, exist_ok=True)
    if args.quick:
        args.set_up, args.shared, args.seeds = "digits", args.runs / "data", args.seeds[:1]
        args.epochs = args.epochs or 2
        make_digits(args.shared)
    if args.shared is None:
        raise InvalidInputError("--shared DATA is missing; --quick needs none")
    if args.step != "train" and args.json is None:
        raise InvalidInputError("--json FILE is missing, where the results go")
    if args.step != "measure":
        train_all(args)
    if args.step != "train":
        measure_all(args)


def make_digits(folder: Path) -> None:
    """scikit-learn's digits as PNGs of 16x16 in class folders."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for index in range(600):
        place = folder / ("train" if index < 400 else "test") / str(digits.target[index])
        place.mkdir(parents=True, exist_ok=True)
        gray = np.rint(digits.images[index] * (255 / 16)).astype(np.uint8)
        Image.fromarray(gray).resize((16, 16), Image.Resampling.BICUBIC).convert("RGB").save(place / f"{index}.png")


def run_folder(args: argparse.Namespace, arm: str, seed: int) -> Path:
    """Where an arm's run lies."""
    return args.runs / f"{arm.replace(', ', '-').replace(' ', '')}-{seed}"


def train_command(args: argparse.Namespace, arm: str, seed: int) -> list[str]:
    """What is run for an arm and a seed."""
    set_up, (recipes, settings) = SET_UPS[args.set_up], ARMS[arm]
    target = f"{args.target_bpp or set_up.target_bpp:g}"
    values = [*set_up.settings, *settings, f"run.seed={seed}", *args.set]
    if args.epochs:
        values.append(f"schedule.epochs={args.epochs}")
    command = ["train", "--model", set_up.model, "--weights", args.weights]
    command += ["--data", str(args.shared / set_up.train), "--test", str(args.shared / set_up.test)]
    for recipe in (set_up.recipe, *recipes):
        command += ["--recipe", recipe]
    command += ["--set", *(value.replace("TARGET", target) for value in values)]
    for name in ("mean", "std"):
        if getattr(args, name) is not None:
            command += [f"--{name}", *getattr(args, name)]
    command += ["-o", str(run_folder(args, arm, seed)), "--resume"]
    return command if args.device is None else [*command, "--device", args.device]


def train_all(args: argparse.Namespace) -> None:
    """One process at a time; finished runs are left alone, interrupted ones go on."""
    for seed in args.seeds:
        for arm in args.arms:
            if (run_folder(args, arm, seed) / "run.json").exists():
                continue
            began = time.monotonic()
            subprocess.run([sys.executable, "-m", "edgejpeg", *train_command(args, arm, seed)], check=True)
            print(f"{arm}, seed {seed}: {time.monotonic() - began:.0f} s", flush=True)


def measure_all(args: argparse.Namespace) -> None:
    """Harden what is trained, compare, write the JSON, and print the table."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for arm in sorted(args.arms, key=lambda name: name == "baseline"):  # it takes the tables of ours
        for seed in args.seeds:
            if (run_folder(args, arm, seed) / "run.json").exists():
                found.setdefault(arm, {})[seed] = measure_run_once(args, arm, seed)
    if not found:
        raise DataError(f"no finished runs in {str(args.runs)!r}; run the train step first")
    document = {
        "benchmark": "training",
        "set_up": "digits, quick: says nothing but that it runs" if args.quick else args.set_up,
        "model": SET_UPS[args.set_up].model,
        "epochs": args.epochs,
        "settings": args.set,
        "weights": "random" if args.weights == "none" else Path(args.weights).name,
        "interval": f"95 %, paired bootstrap over test images of means over seeds, {RESAMPLES} resamples",
        "arms": compare({arm: found[arm] for arm in ARMS if arm in found}),
    }
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print("\n".join(table(document["arms"])))


def measure_run_once(args: argparse.Namespace, arm: str, seed: int) -> dict[str, Any]:
    """Every test image's answer on every rung, kept beside the run."""
    folder = run_folder(args, arm, seed)
    kept = folder / "rungs.npz"
    if not kept.exists():
        from edgejpeg.cli.harden import measure_run

        ours = run_folder(args, "ours", seed) / "profile.toml"
        tables = (ours if ours.exists() else ijg_profile(args.runs)) if arm == "baseline" else None
        _, _, result, _ = measure_run(
            folder,
            args.shared / SET_UPS[args.set_up].test,
            profile=None if tables is None else str(tables),
            max_images=args.images,
            device=args.device,
        )
        if arm != "baseline":
            result.profile.save(folder / "profile.toml")
        steps = [] if result.luma is None or result.chroma is None else [result.luma, result.chroma]
        np.savez_compressed(
            kept,
            **{f"correct{r.number}": r.logits.argmax(axis=1) == result.labels for r in result.rungs},
            bpp=result.rung(4).bpp,
            identical=result.identical,
            below_one=sum(len(one.below_one) for one in steps),
            clipped_dc=[one.clipped[0] for one in steps],
            clipped_ac=[one.clipped[1] for one in steps],
            tables="" if tables is None else tables.parent.name if tables == ours else tables.name,
        )
    with np.load(kept) as arrays:
        measured: dict[str, Any] = dict(arrays)
    return {**measured, **epochs_of(folder)}


def ijg_profile(folder: Path) -> Path:
    """The IJG's tables of quality 75 as a profile."""
    from edgejpeg import ijg_tables
    from edgejpeg.profile import Profile

    path = folder / "ijg75.toml"
    luma, chroma = ijg_tables(75)
    Profile.fixed(name="IJG 75", luma=luma, chroma=chroma, subsampling="420", effort=1).save(path)
    return path


def epochs_of(folder: Path) -> dict[str, float]:
    """The test accuracy of the last epoch, of the last five, and of the best one, which the authors report."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    top1 = [record["test"]["top1"] for record in map(json.loads, lines) if "test" in record]
    return {"last": top1[-1], "last_mean": float(np.mean(top1[-LAST_EPOCHS:])), "best_by_test": max(top1)}


def compare(found: dict[str, dict[int, dict[str, Any]]]) -> dict[str, Any]:
    """The figures of every arm: means over its seeds, and differences in pairs."""
    first = next(iter(next(iter(found.values())).values()))
    weights = bootstrap_weights(len(first["correct1"]), resamples=RESAMPLES)
    document = {}
    for arm, seeds in found.items():
        numbers = sorted(int(key[7:]) for key in next(iter(seeds.values())) if key.startswith("correct"))
        entry: dict[str, Any] = {"seeds": list(seeds)}
        means = {number: mean_over_seeds(seeds, f"correct{number}") for number in numbers}
        entry["top1"] = {str(number): percent(bootstrap_mean(mean, weights)) for number, mean in means.items()}
        entry["top1_by_seed"] = {
            str(number): [round(100 * float(one[f"correct{number}"].mean()), 3) for one in seeds.values()]
            for number in numbers
        }
        entry["rung4_minus_rung1"] = percent(bootstrap_difference(means[4], means[1], weights))
        common = {seed: one for seed, one in seeds.items() if seed in found.get("baseline", {})}
        if arm != "baseline" and common:
            base = {seed: found["baseline"][seed] for seed in common}
            for number in (1, 4):
                difference = bootstrap_difference(
                    mean_over_seeds(common, f"correct{number}"), mean_over_seeds(base, "correct1"), weights
                )
                entry[f"rung{number}_minus_clean_baseline"] = percent(difference)
        for key in ("last", "last_mean", "best_by_test"):
            entry[f"{key}_epoch_top1"] = [round(100 * one[key], 3) for one in seeds.values()]
        entry["bpp"] = [round(float(one["bpp"].mean()), 4) for one in seeds.values()]
        entry["identical"] = [int(one["identical"]) for one in seeds.values()]
        entry["images"] = len(first["correct1"])
        entry["steps_below_one"] = [int(one["below_one"]) for one in seeds.values()]
        for key in ("clipped_dc", "clipped_ac"):
            entry[key] = [[round(float(value), 5) for value in one[key]] for one in seeds.values()]
        entry["file_tables"] = sorted({str(one["tables"]) for one in seeds.values()} - {""})
        document[arm] = entry
    return document


def mean_over_seeds(seeds: dict[int, dict[str, Any]], key: str) -> NDArray[np.float64]:
    """The part of the seeds that answer each image correctly."""
    mean: NDArray[np.float64] = np.mean([one[key] for one in seeds.values()], axis=0, dtype=np.float64)
    return mean


def percent(interval: Any) -> dict[str, float]:
    """In points of per cent."""
    return {"value": round(100 * interval.value, 3), "low": round(100 * interval.low, 3),
            "high": round(100 * interval.high, 3)}  # fmt: skip


def table(arms: dict[str, Any]) -> list[str]:
    """The comparison as lines of text."""

    def change(value: dict[str, float] | None) -> str:
        return "" if value is None else f"{value['value']:+.2f} ({value['low']:+.2f} to {value['high']:+.2f})"

    lines = [
        f"{'arm':<18}{'seeds':>6}{'rung 1':>8}{'rung 2':>8}{'rung 3':>8}{'rung 4':>8}{'bpp':>8}  "
        f"{'rung 1 - baseline':<24}{'rung 4 - rung 1':<24}"
    ]
    for arm, entry in arms.items():
        rungs = [f"{entry['top1'][str(n)]['value']:8.2f}" if str(n) in entry["top1"] else " " * 8 for n in (1, 2, 3, 4)]
        lines.append(
            f"{arm:<18}{len(entry['seeds']):>6}{''.join(rungs)}{np.mean(entry['bpp']):>8.3f}  "
            f"{change(entry.get('rung1_minus_clean_baseline')):<24}{change(entry['rung4_minus_rung1']):<24}"
        )
    return lines


if __name__ == "__main__":
    main()
