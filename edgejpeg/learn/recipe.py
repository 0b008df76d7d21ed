"""Training recipes: TOML files with every number that a run depends on.

A recipe is read strictly: an unknown key is an error that names the nearest known one, and every value has a type and a
range. What a file leaves out has the default below. Recipes can be laid over each other, so that one may describe the
network's part of a training and another the layer's.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgejpeg.errors import InvalidInputError
from edgejpeg.learn.recipe_values import key, read_section

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RECIPES = Path(__file__).parent / "recipes"

NOT_OF_THE_RESULT = ("workers", "cache", "log_every", "checkpoint_every", "evaluate_every")
"""Keys of ``[run]`` that change no trained weight: a resumed run may have others."""


@dataclass(frozen=True)
class DataRecipe:
    """``[data]``: how an image becomes the network's input.

    Attributes:
        size: side of the square input in pixels; none: the network's own.
        resize: short side before the centre crop of evaluation; none: the network's own, scaled to ``size``.
        crop: of training: ``"none"`` (the centre, as in evaluation), ``"pad"`` (the centre, ``pad`` black pixels around
            it, a random crop) or ``"random-resized"`` (a random part of the image, of an area and a shape).
        pad: pixels, for ``"pad"``.
        scale: least and largest part of the area, for ``"random-resized"``.
        ratio: least and largest width over height, for ``"random-resized"``.
        interpolation: of the random crops; none: the network's own.
        flip: probability of a horizontal flip.
        randaugment: magnitude of RandAugment's two operations, as torchvision has them, 0..30; 0 for none.
        erase: probability of erasing a random rectangle, filled with noise.
        classes: how many there must be; none: as many as the data has.
        validation: part of the training images that is held out, of every class; 0 for none.
    """

    size: int | None = key("int", None, low=8, high=4096)
    resize: int | None = key("int", None, low=8, high=8192)
    crop: str = key("str", "random-resized", choices=("none", "pad", "random-resized"))
    pad: int = key("int", 4, low=0, high=512)
    scale: tuple[float, ...] = key("floats", (0.08, 1.0), length=2, above=0, high=1)
    ratio: tuple[float, ...] = key("floats", (0.75, 1.3333333333333333), length=2, above=0, high=100)
    interpolation: str | None = key("str", None, choices=("bilinear", "bicubic"))
    flip: float = key("float", 0.5, low=0, high=1)
    randaugment: int = key("int", 0, low=0, high=30)
    erase: float = key("float", 0.0, low=0, high=1)
    classes: int | None = key("int", None, low=2)
    validation: float = key("float", 0.0, low=0, high=0.5)


@dataclass(frozen=True)
class OptimizerRecipe:
    """``[optimizer]``: of the network.

    Attributes:
        name: ``"sgd"``, ``"adamw"`` or ``"rmsprop"``.
        lr: the learning rate before schedule and warm-up, for ``run.batch_size`` images a step.
        momentum: of SGD and RMSprop.
        nesterov: of SGD.
        betas: of AdamW.
        weight_decay: as PyTorch's optimisers have it.
        decay_norm_and_bias: whether norms and biases decay, too.
    """

    name: str = key("str", "sgd", choices=("sgd", "adamw", "rmsprop"))
    lr: float = key("float", 0.1, above=0, high=100)
    momentum: float = key("float", 0.9, low=0, below=1)
    nesterov: bool = key("bool", False)
    betas: tuple[float, ...] = key("floats", (0.9, 0.999), length=2, low=0, below=1)
    weight_decay: float = key("float", 1e-4, low=0, high=10)
    decay_norm_and_bias: bool = key("bool", True)


@dataclass(frozen=True)
class ScheduleRecipe:
    """``[schedule]``: of the network's learning rate.

    Attributes:
        epochs: passes over the training images.
        kind: ``"constant"``; ``"milestones"``: times ``gamma`` at each of ``milestones``; ``"step"``: times ``gamma``
            every ``step`` epochs; ``"cosine"``: down to ``final`` of the rate, step by step.
        milestones: epochs.
        step: epochs.
        gamma: a factor.
        final: the last rate of the cosine as a part of ``lr``.
        warmup: epochs in which the rate rises linearly, step by step.
        warmup_start: where it begins, as a part of ``lr``.
    """

    epochs: int = key("int", 100, low=1, high=1_000_000)
    kind: str = key("str", "cosine", choices=("constant", "milestones", "step", "cosine"))
    milestones: tuple[int, ...] = key("ints", (), low=1)
    step: int = key("int", 30, low=1)
    gamma: float = key("float", 0.1, above=0, high=1)
    final: float = key("float", 0.0, low=0, high=1)
    warmup: float = key("float", 0.0, low=0, high=1_000_000)
    warmup_start: float = key("float", 0.0, low=0, high=1)


@dataclass(frozen=True)
class LossRecipe:
    """``[loss]``: cross entropy.

    Attributes:
        label_smoothing: the part of the target that is spread over all classes.
        mixup: alpha of the Beta distribution of mixup; 0 for none.
        cutmix: the same of CutMix; with both, each batch has one of the two.
    """

    label_smoothing: float = key("float", 0.0, low=0, below=1)
    mixup: float = key("float", 0.0, low=0, high=100)
    cutmix: float = key("float", 0.0, low=0, high=100)


@dataclass(frozen=True)
class LayerOptimizerRecipe:
    """``[layer.optimizer]``: of the tables.

    Attributes:
        name: ``"adam"`` or ``"sgd"``.
        lr: learning rate of the steps q.
        alpha_lr: learning rate of alpha where it is learned; none: as ``lr``.
        momentum: of SGD.
        schedule: ``"constant"``, or ``"network"``: the same factors as the network's rate.
    """

    name: str = key("str", "adam", choices=("adam", "sgd"))
    lr: float = key("float", 0.003, above=0, high=100)
    alpha_lr: float | None = key("float", None, above=0, high=100)
    momentum: float = key("float", 0.9, low=0, below=1)
    schedule: str = key("str", "constant", choices=("constant", "network"))


@dataclass(frozen=True)
class LayerScheduleRecipe:
    """``[layer.schedule]``: :class:`~edgejpeg.learn.layer_schedule.LayerSchedule`.

    Attributes:
        hardness: first and last h; none: as ``[layer]`` has it.
        finish: last part of the steps with Q_u and integer tables, straight-through.
        decoder_rounding: last part of the steps with the decoder's rounding and clamping.
        encoder_rounding: last part of the steps with the encoder's integers.
    """

    hardness: tuple[float, ...] | None = key("floats", None, length=2, above=0)
    finish: float = key("float", 0.0, low=0, high=1)
    decoder_rounding: float = key("float", 0.0, low=0, high=1)
    encoder_rounding: float = key("float", 0.0, low=0, high=1)


@dataclass(frozen=True)
class LayerRateRecipe:
    """``[layer.rate]``: :class:`~edgejpeg.learn.rate_term.RateTerm`, on training images as evaluation sees them.

    Attributes:
        weight: of the rate in the loss, for bits per pixel; none: no rate term, unless there is a target.
        target_bpp: bits per pixel of whole files that are to be held, in the place of a weight.
        effort: entropy coding of these files: 0 for stored Huffman tables, 1 for optimal ones.
        images: so many are counted in a pass; none: as many as the pass has.
    """

    weight: float | None = key("float", None, low=0)
    target_bpp: float | None = key("float", None, above=0, high=48)
    effort: int = key("int", 1, low=0, high=1)
    images: int | None = key("int", None, low=1)


@dataclass(frozen=True)
class LayerRecipe:
    """``[layer]``: the JPEG layer; see :class:`~edgejpeg.learn.layer.JpegLayer`.

    Attributes:
        enabled: false for the baseline arm, which is the same without the layer.
        subsampling, quantizer, bits, window, clip, alpha, hardness, learn_alpha, q_min, q_max, integer_tables, rounds,
            upsampling, decoder_rounding, clamp: the layer's own. A hardness, or one in ``[layer.schedule]``, takes the
            place of alpha.
        initial: where the tables start: ``"sensitivity"`` (of the network with its first weights, or of
            ``--sensitivity``), ``"lsq"`` (mean magnitudes), ``"ones"`` or ``"ijg"``.
        initial_q_max: the largest luma step of ``"sensitivity"``.
        initial_quality: of ``"ijg"``.
        initial_images: of the training set, for ``"sensitivity"`` and ``"lsq"``.
    """

    enabled: bool = key("bool", True)
    subsampling: str = key("str", "444", choices=("444", "422", "420"))
    quantizer: str = key("str", "soft", choices=("soft", "hard"))
    bits: int = key("int", 11, low=3, high=16)
    window: str = key("str", "exact", choices=("exact", "5"))
    clip: bool = key("bool", True)
    alpha: float = key("float", 5.0, above=0, high=1e6)
    hardness: float | None = key("float", None, above=0, high=1e6)
    learn_alpha: bool = key("bool", False)
    q_min: float = key("float", 1.0, above=0, high=255)
    q_max: float = key("float", 255.0, above=0, high=255)
    integer_tables: bool = key("bool", False)
    rounds: int = key("int", 1, low=1, high=64)
    upsampling: str = key("str", "fancy", choices=("fancy", "plain"))
    decoder_rounding: bool = key("bool", False)
    clamp: bool = key("bool", False)
    initial: str = key("str", "sensitivity", choices=("sensitivity", "lsq", "ones", "ijg"))
    initial_q_max: float = key("float", 10.0, above=0, high=255)
    initial_quality: int = key("int", 75, low=1, high=100)
    initial_images: int = key("int", 1000, low=1)
    optimizer: LayerOptimizerRecipe = field(default_factory=LayerOptimizerRecipe)
    schedule: LayerScheduleRecipe = field(default_factory=LayerScheduleRecipe)
    rate: LayerRateRecipe = field(default_factory=LayerRateRecipe)


@dataclass(frozen=True)
class RunRecipe:
    """``[run]``: how the steps are computed.

    Attributes:
        batch_size: images of one step, of all processes together.
        accumulation: so many backward passes make a step.
        precision: ``"fp32"``, ``"fp16"`` (autocast with a scaled loss) or ``"bf16"`` (autocast). The layer computes in
            float32.
        seed: of first weights, order, crops and everything else.
        workers: processes that read ahead, of each process; 0: none.
        cache: decoded images in memory: ``"auto"`` (when every image is used whole, and they take at most 2 GB),
            ``"on"`` or ``"off"``.
        ema: decay of a running average of all weights, which is then the result; 0 for none.
        clip_grad: largest norm of the gradient of network and tables; 0 for none.
        channels_last: memory format.
        sync_batch_norm: statistics over all processes (GPUs only).
        deterministic: only algorithms that give the same bits every time.
        log_every: steps between lines of ``metrics.jsonl``.
        checkpoint_every: steps between checkpoints, beside those at the end of every epoch; 0 for none.
        evaluate_every: epochs between evaluations; the last one always is.
    """

    batch_size: int = key("int", 64, low=1, high=1_000_000)
    accumulation: int = key("int", 1, low=1, high=100_000)
    precision: str = key("str", "fp32", choices=("fp32", "fp16", "bf16"))
    seed: int = key("int", 0, low=0, high=2**31)
    workers: int = key("int", 4, low=0, high=256)
    cache: str = key("str", "auto", choices=("auto", "on", "off"))
    ema: float = key("float", 0.0, low=0, below=1)
    clip_grad: float = key("float", 0.0, low=0)
    channels_last: bool = key("bool", False)
    sync_batch_norm: bool = key("bool", False)
    deterministic: bool = key("bool", False)
    log_every: int = key("int", 50, low=1)
    checkpoint_every: int = key("int", 0, low=0)
    evaluate_every: int = key("int", 1, low=1)


@dataclass(frozen=True)
class Recipe:
    """All sections of a recipe; :meth:`to_dict` gives what a file could hold.

    Attributes:
        description: one line for ``--list-recipes``.
    """

    description: str = key("str", "")
    data: DataRecipe = field(default_factory=DataRecipe)
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    schedule: ScheduleRecipe = field(default_factory=ScheduleRecipe)
    loss: LossRecipe = field(default_factory=LossRecipe)
    layer: LayerRecipe = field(default_factory=LayerRecipe)
    run: RunRecipe = field(default_factory=RunRecipe)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], source: str = "the recipe") -> Recipe:
        """A recipe from nested plain values, as of TOML or JSON; ``"none"`` and None are the same.

        Raises:
            InvalidInputError: an unknown key (with the nearest known one), another type, a value out of range, or keys
                that contradict each other.
        """
        recipe = read_section(cls, document, "", source)
        _check_together(recipe, source)
        return recipe

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, complete; None where a key is none."""
        return _plain(asdict(self))

    def trajectory(self) -> dict[str, Any]:
        """What the trained weights depend on: a resumed run must share it."""
        document = self.to_dict()
        del document["description"]
        for name in NOT_OF_THE_RESULT:
            del document["run"][name]
        return document

    def with_values(self, settings: Sequence[str], source: str = "--set") -> Recipe:
        """A copy with some values changed.

        Args:
            settings: ``section.key=value``, the value as in TOML; a string needs no quotes.

        Raises:
            InvalidInputError: as for :meth:`from_dict`, or no ``key=value``.
        """
        document = self.to_dict()
        for setting in settings:
            name, separator, text = setting.partition("=")
            path = name.strip().split(".")
            if not separator or not all(path):
                raise InvalidInputError(f"{source} takes section.key=value, such as run.seed=3; got {setting!r}")
            place = document
            for part in path[:-1]:
                place = place.setdefault(part, {}) if isinstance(place.get(part, {}), dict) else {}
            place[path[-1]] = _value(text.strip())
        return Recipe.from_dict(document, source)


def list_recipes() -> dict[str, str]:
    """The shipped recipes' names with their descriptions, sorted."""
    return {path.stem: load_recipe(path).description for path in sorted(RECIPES.glob("*.toml"))}


def load_recipe(*names: str | Path, settings: Sequence[str] = ()) -> Recipe:
    """Read a recipe, or several, each laid over the one before.

    Args:
        names: a shipped recipe's name, or a ``.toml`` file; none at all: the defaults.
        settings: as for :meth:`Recipe.with_values`.

    Raises:
        InvalidInputError: an unknown name (with the nearest), a file that is no TOML, or as for
            :meth:`Recipe.from_dict`.
    """
    merged: dict[str, Any] = {}
    for name in names:
        path, document = _read(name)
        Recipe.from_dict(document, f"the recipe {str(path)!r}")
        merged = _laid_over(merged, document)
    recipe = Recipe.from_dict(merged, f"the recipe {' + '.join(map(str, names))}")
    return recipe.with_values(settings) if settings else recipe


def _read(name: str | Path) -> tuple[Path, dict[str, Any]]:
    path = Path(name)
    if path.suffix != ".toml":
        shipped = sorted(file.stem for file in RECIPES.glob("*.toml"))
        if str(name) not in shipped:
            nearest = difflib.get_close_matches(str(name), shipped, n=1, cutoff=0.5)
            meant = f"did you mean {nearest[0]}? " if nearest else ""
            raise InvalidInputError(
                f"unknown recipe {str(name)!r}: {meant}shipped are {', '.join(shipped)}; or give a .toml file"
            )
        path = RECIPES / f"{name}.toml"
    try:
        return path, tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInputError(f"cannot read the recipe {str(path)!r}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"the recipe {str(path)!r} is no TOML: {error}") from error


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        both = isinstance(value, Mapping) and isinstance(below.get(name), Mapping)
        merged[name] = _laid_over(below[name], value) if both else value
    return merged


def _check_together(recipe: Recipe, source: str) -> None:
    """What no single key can say."""
    layer, schedule, run = recipe.layer, recipe.schedule, recipe.run
    problems = (
        (layer.q_min > layer.q_max, f"layer.q_min {layer.q_min:g} is above layer.q_max {layer.q_max:g}"),
        (
            layer.learn_alpha and (layer.hardness is not None or layer.schedule.hardness is not None),
            "layer.learn_alpha contradicts a hardness, from which alpha = h / q^2 follows",
        ),
        (
            layer.hardness is not None and layer.schedule.hardness is not None,
            "layer.hardness and layer.schedule.hardness are both given; keep one of them",
        ),
        (
            layer.rate.weight is not None and layer.rate.target_bpp is not None,
            "layer.rate.weight and layer.rate.target_bpp are both given; keep one of them",
        ),
        (
            recipe.data.scale[0] > recipe.data.scale[1] or recipe.data.ratio[0] > recipe.data.ratio[1],
            "data.scale and data.ratio are [least, largest]",
        ),
        (
            list(schedule.milestones) != sorted(set(schedule.milestones)),
            f"schedule.milestones rise; got {list(schedule.milestones)}",
        ),
        (
            schedule.kind == "milestones" and not schedule.milestones,
            "schedule.kind is milestones and schedule.milestones is empty",
        ),
        (schedule.warmup > schedule.epochs, f"schedule.warmup {schedule.warmup:g} is longer than the training"),
        (
            run.batch_size % run.accumulation != 0,
            f"run.batch_size {run.batch_size} is no multiple of run.accumulation {run.accumulation}",
        ),
        (
            recipe.optimizer.nesterov and (recipe.optimizer.name != "sgd" or recipe.optimizer.momentum == 0),
            "optimizer.nesterov is for sgd with a momentum",
        ),
    )
    for wrong, message in problems:
        if wrong:
            raise InvalidInputError(f"{source}: {message}")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        try:
            return float(text)  # .5, which TOML does not take
        except ValueError:
            return text
