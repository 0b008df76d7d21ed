"""The folder that ``edgejpeg train`` writes, read again: network, layer, recipe and report.

RUN has ``weights.safetensors`` (the network, for ``--weights``), ``layer.safetensors`` (the JPEG layer's tables; absent
for the baseline), ``run.json`` (what was done and measured), ``metrics.jsonl`` and ``checkpoint.pt``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgejpeg._optional import require
from edgejpeg.errors import DataError, InvalidInputError
from edgejpeg.learn.layer import JpegLayer
from edgejpeg.learn.recipe import Recipe
from edgejpeg.learn.runs import LAYER, REPORT, WEIGHTS
from edgejpeg.models.registry import create_model
from edgejpeg.models.spec import LoadedModel
from edgejpeg.models.state_dict import load_into, read_state_dict, sha256_of

FORMAT, KIND = 1, "training"

_LAYER_OPTIONS = (
    "subsampling", "quantizer", "bits", "window", "clip", "q_min", "q_max", "integer_tables", "rounds", "upsampling",
    "encoder_rounding", "decoder_rounding", "clamp",
)  # fmt: skip


@dataclass(frozen=True)
class TrainedRun:
    """A finished training.

    Attributes:
        path: the folder.
        model: the network with the run's weights, in eval mode; its preprocessing is that of the training.
        layer: the JPEG layer as trained, on pixels 0..255; None for the baseline.
        recipe: fully resolved.
        report: ``run.json``.
    """

    path: Path
    model: LoadedModel
    layer: JpegLayer | None
    recipe: Recipe
    report: Mapping[str, Any]

    def network(self) -> JpegNetwork:
        """Layer, normalisation and network as they were trained."""
        return JpegNetwork(self.model, self.layer).to(next(self.model.module.parameters()).device).eval()


class JpegNetwork(nn.Module):
    """A network behind a JPEG layer: logits = network((layer(rgb) - mean) / std).

    Attributes:
        network: normalised RGB to logits.
        layer: None for images as they are.

    Shape:
        (N, 3, H, W) float R, G, B in 0..255 to (N, classes).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: LoadedModel, layer: JpegLayer | None) -> None:
        super().__init__()
        self.network, self.layer = model.module, layer
        self.register_buffer("mean", torch.tensor(model.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(model.std)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        pixels = images if self.layer is None else self.layer(images)
        logits: Tensor = self.network((pixels - self.mean) / self.std)
        return logits


def layer_options(layer: JpegLayer) -> dict[str, Any]:
    """What rebuilds a layer, tables apart, as plain values; see :func:`layer_from`."""
    options = {name: getattr(layer, name) for name in _LAYER_OPTIONS}
    learned = isinstance(layer.alpha_luma, nn.Parameter)
    return {
        **options,
        "hardness": None if layer.hardness is None else float(layer.hardness),
        "learn_alpha": learned,
        "alpha": None if learned else float(layer.alpha_luma.flatten()[0]),
    }


def layer_from(options: Mapping[str, Any], state: Mapping[str, Tensor]) -> JpegLayer:
    """A layer with the options of :func:`layer_options` and the tensors of a state dict.

    Raises:
        InvalidInputError: an option that the layer does not have, or outside what it allows.
        RuntimeError: tensors of other names or shapes, as of ``load_state_dict``.
    """
    known = {*_LAYER_OPTIONS, "hardness", "learn_alpha", "alpha"}
    if set(options) != known:
        raise InvalidInputError(f"the layer's options are {', '.join(sorted(known))}; got {', '.join(sorted(options))}")
    values = dict(options)
    if values["alpha"] is None:
        del values["alpha"]
    ones = torch.ones(8, 8)
    layer = JpegLayer(ones, ones, input_range=255, **values)
    layer.load_state_dict(dict(state))
    for name, tensor in layer.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise InvalidInputError(f"{name} holds NaN or infinity")
    return layer


def load_run(path: str | Path, device: str | torch.device = "cpu") -> TrainedRun:
    """Read the folder of a finished training.

    Raises:
        DataError: no such folder, no finished training in it, a file that is missing, damaged or not the one that the
            report tells of, weights of another architecture.
        InvalidInputError: another command's run.
    """
    folder = Path(path)
    report = _report(folder)
    recipe = Recipe.from_dict(report["recipe"], f"{str(folder / REPORT)!r}")
    _check_digest(folder / WEIGHTS, report["weights_sha256"])
    try:
        model = create_model(report["model"], "none", report["num_classes"])
        load_into(model.module, read_state_dict(folder / WEIGHTS), source=str(folder / WEIGHTS), name=report["model"])
        model = replace(with_input(model, report), weights=WEIGHTS, weights_sha256=report["weights_sha256"])
    except ValueError as error:
        raise DataError(f"cannot load the run {str(folder)!r}: {error}") from error
    model.module.to(device)
    layer = None if report["layer"] is None else _layer(folder, report).to(device)
    return TrainedRun(folder, model, layer, recipe, report)


def with_input(model: LoadedModel, report: Mapping[str, Any]) -> LoadedModel:
    """The model with the preprocessing and the classes of a report."""
    described = report["input"]
    return replace(
        model,
        input_size=(int(described["size"][0]), int(described["size"][1])),
        mean=_three(described["mean"]),
        std=_three(described["std"]),
        resize=int(described["resize"]),
        interpolation=described["interpolation"],
        class_names=report["class_names"],
        pretrained=True,
        notice=None,
    )


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    return red, green, blue


def _report(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise DataError(f"no folder {str(folder)!r}; give the RUN of edgejpeg train")
    path = folder / REPORT
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(
            f"no finished training in {str(folder)!r}: it has no {REPORT}; edgejpeg train -o {folder} --resume ends one"
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {str(path)!r}: {error}") from error
    if not isinstance(report, dict) or report.get("kind") != KIND:
        kind = report.get("kind") if isinstance(report, dict) else type(report).__name__
        raise InvalidInputError(f"{str(path)!r} is of another command's run: {kind!r}; give the RUN of edgejpeg train")
    if report.get("format") != FORMAT:
        raise DataError(f"{str(path)!r} has the format {report.get('format')!r}; this version reads {FORMAT}")
    needed = ("model", "num_classes", "class_names", "input", "recipe", "layer", "weights_sha256", "layer_sha256")
    missing = [key for key in needed if key not in report]
    if missing:
        raise DataError(f"{str(path)!r} is damaged: it has no {', '.join(missing)}")
    return report


def _check_digest(path: Path, expected: str) -> None:
    if not path.is_file():
        raise DataError(f"the run lacks {str(path)!r}; train it again")
    if sha256_of(path) != expected:
        raise DataError(f"{str(path)!r} is not the file that {REPORT} tells of: its SHA-256 is another")


def _layer(folder: Path, report: Mapping[str, Any]) -> JpegLayer:
    path = folder / LAYER
    _check_digest(path, report["layer_sha256"])
    require("safetensors", extra="train", purpose="reading a run")
    from safetensors.torch import load_file

    try:
        return layer_from(report["layer"], load_file(path))
    except (RuntimeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"cannot load the layer from {str(path)!r}: {reason}") from error
