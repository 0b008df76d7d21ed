"""``edgejpeg verify``: figures against SciPy and by hand, real graphs that agree, damaged ones that do not."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edgejpeg import cli
from edgejpeg.errors import InvalidInputError, ModelError
from edgejpeg.runtime.agreement import Agreement, wilson_interval


def test_figures_of_the_logits(rng):
    special = pytest.importorskip("scipy.special")
    first = rng.normal(0, 3, (50, 7))
    second = first + rng.normal(0, 0.02, first.shape)
    second[4] = -second[4]
    agreement = Agreement("fp32", "fp16")
    agreement.add(first[:20], second[:20])
    agreement.add(first[20:], second[20:])
    document = agreement.document()
    same = int((first.argmax(1) == second.argmax(1)).sum())
    assert document["images"] == 50 and document["top1"]["same"] == same
    errors = np.abs(first - second).max(1) / first.std(1)
    assert document["logits"]["largest_in_std"] == pytest.approx(errors.max())
    p, q = special.softmax(first, axis=1), special.softmax(second, axis=1)
    divergences = special.rel_entr(p, q).sum(1)
    assert document["kl"]["mean"] == pytest.approx(divergences.mean())
    assert document["kl"]["max"] == pytest.approx(divergences.max())
    assert not document["passed"] and "standard deviations, above 0.1" in document["failures"][0]
    json.dumps(document, allow_nan=False)


def test_interval_is_wilsons():
    stats = pytest.importorskip("scipy.stats")
    for successes, count in ((0, 10), (796, 800), (800, 800), (3, 7)):
        theirs = stats.binomtest(successes, count).proportion_ci(method="wilson")
        assert wilson_interval(successes, count) == pytest.approx((theirs.low, theirs.high), abs=1e-4)
    assert wilson_interval(0, 0) == (0, 1)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("fp16", 0.1), ("int8", 3.0)])
def test_tolerances_follow_the_lower_precision(precision, tolerance):
    first = np.array([[1.0, -1.0, 0.0]] * 4)
    for factor, passed in ((0.9, True), (1.1, False)):
        agreement = Agreement(precision, "fp32")
        # The first class stays the first.
        agreement.add(first, first + np.array([1, 0, 0]) * factor * tolerance * first[0].std())
        assert agreement.document()["passed"] == passed
    relaxed = Agreement(precision, "fp32", logit_tolerance=2 * tolerance)
    relaxed.add(first, first + np.array([1, 0, 0]) * 1.1 * tolerance * first[0].std())
    assert relaxed.document()["passed"]


@pytest.mark.parametrize(("other", "passed"), [(0, True), (1, True), (10, False)])
def test_few_disagreements_among_few_images_are_no_evidence(other, passed):
    """99 of 100 images alike are no evidence against 99.5 %; 90 are."""
    logits = np.tile([1.0, 1.0 - 1e-9, -3.0], (100, 1))
    swapped = logits.copy()
    swapped[:other] = swapped[:other, [1, 0, 2]]
    agreement, strict = Agreement("fp32", "fp16"), Agreement("fp32", "fp16", top1_tolerance=0.995)
    for each in (agreement, strict):
        each.add(logits, swapped)
    assert agreement.document()["passed"] == passed
    assert strict.document()["passed"] == (other == 0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_fail_on_either_side(value, rng):
    logits = rng.normal(size=(3, 5))
    broken = logits.copy()
    broken[1, 2] = value
    for pair in ((logits, broken), (broken, logits)):
        agreement = Agreement("int8", "int8")
        agreement.add(*pair)
        document = agreement.document()
        assert not document["passed"] and document["logits"]["largest_in_std"] is None
        json.dumps(document, allow_nan=False)


def test_images_with_flips_are_judged_by_themselves(rng):
    logits = rng.normal(size=(2, 5))
    moved = logits.copy()
    moved[1] += np.array([0.2, 0, 0, 0, 0]) * logits[1].std()
    levels = rng.integers(-5, 5, (2, 64, 50, 50))
    other = levels.copy()
    other[1, 3, 4, 5] += 1
    agreement = Agreement("fp32", "fp32", has_layer=True, top1_tolerance=0)
    agreement.add(logits, moved, ([levels], [other]))
    document = agreement.document()
    assert document["passed"], document["failures"]
    assert document["coefficients"] | {} == {
        "count": levels.size, "flipped": 1, "fraction": 1 / levels.size, "images_with_flips": 1, "tolerance": 1e-4,
    }  # fmt: skip
    assert document["logits"]["images"] == 1 and document["logits_with_flips"]["images"] == 1
    unknown = Agreement("fp32", "fp32", has_layer=True, top1_tolerance=0)
    unknown.add(logits, moved)
    assert "logits" not in unknown.document() and unknown.document()["passed"]
    known = Agreement("fp32", "fp32", has_layer=True, top1_tolerance=0)
    known.add(logits, moved, ([levels], [levels]))
    assert not known.document()["passed"]


def test_too_many_flips_fail():
    levels = np.zeros((1, 64, 10, 10))
    agreement = Agreement("fp32", "fp32")
    agreement.add(None, None, ([levels], [levels + (np.arange(10) == 0)]))
    document = agreement.document()
    assert not document["passed"] and "640 of 6400 coefficients flipped" in document["failures"][0]


def test_shapes_that_differ():
    agreement = Agreement("fp32", "fp32")
    with pytest.raises(ModelError, match="logits of shape"):
        agreement.add(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(ModelError, match="coefficients of shapes"):
        agreement.add(None, None, ([np.zeros((1, 2))], [np.zeros((1, 3))]))
    with pytest.raises(InvalidInputError, match="fp8"):
        Agreement("fp8", "fp32")
    assert not Agreement("fp32", "fp32").document()["passed"]


# Real graphs on real images.


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A small network, registered under a name, in several files."""
    torch = pytest.importorskip("torch")
    for package in ("onnx", "onnxscript", "onnxruntime", "PIL", "tqdm", "onnxconverter_common"):
        pytest.importorskip(package)
    import onnx

    from edgejpeg.export import export_coefficients, export_onnx, layer_from_quality
    from edgejpeg.models import LoadedModel

    torch.manual_seed(0)
    body = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 5, 4), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(),
        torch.nn.Linear(32, 10),
    ).eval()  # fmt: skip
    model = LoadedModel(
        name="small", module=body, input_size=(32, 48), mean=(127.0,) * 3, std=(64.0,) * 3, class_names=None,
        num_classes=10, weights="random", weights_sha256=None, pretrained=False, resize=40, interpolation="bilinear",
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("exported")
    layer = layer_from_quality(75)
    files = {
        "layer": export_onnx(model, folder, layer=layer).onnx_path,
        "half": export_onnx(model, folder, layer=layer, precision="fp16").onnx_path,
        "pixels": export_onnx(model, folder, uint8=True).onnx_path,
        "coefficients": export_coefficients(folder, size=(32, 48), tables=layer).onnx_path,
    }
    spoiled = onnx.load(files["pixels"])
    for tensor in spoiled.graph.initializer:
        if tuple(tensor.dims) == (10, 32):
            values = onnx.numpy_helper.to_array(tensor).copy()
            values[3] += 1
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    files["spoiled"] = folder / "spoiled.onnx"
    onnx.save(spoiled, files["spoiled"])
    return model, files


@pytest.fixture
def images(photo, tmp_path):
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(6):
        image.fromarray(np.roll(photo(64 + index, 90), 11 * index, axis=1)).save(folder / f"{index}.png")
    return folder


def _verify(capsys, *options: object) -> tuple[int, dict]:
    code = cli.main(["verify", *map(str, options), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_file_agrees_with_itself_and_with_half_precision(exported, images, capsys):
    _, files = exported
    code, document = _verify(capsys, files["layer"], files["layer"], "--data", images)
    assert code == 0 and document["images"] == 6
    assert document["logits"]["largest_in_std"] == 0 and document["kl"]["max"] == 0
    # 32x48 pixels in 4:2:0: 24 + 6 + 6 blocks of 64.
    assert document["coefficients"]["count"] == 6 * 36 * 64 and document["coefficients"]["flipped"] == 0
    code, document = _verify(capsys, files["layer"], files["half"], "--data", images, "--batch-size", "4")
    assert code == 0 and document["precision"] == "fp16"
    assert 0 < document["logits"]["largest_in_std"] < 0.1


@pytest.mark.parametrize("form", ["layer", "pixels"])
def test_pytorch_is_one_side(exported, images, capsys, monkeypatch, form):
    model, files = exported
    monkeypatch.setattr("edgejpeg.models.create_model", lambda name, **_: model)
    code, document = _verify(capsys, "torch:small", files[form], "--data", images, "--images", "5")
    assert code == 0 and document["images"] == 5
    assert document["a"]["backend"] == "torch" and document["a"]["form"] == form
    assert ("coefficients" in document) == (form == "layer")
    assert document["logits"]["largest_in_std"] < 1e-4


def test_coefficient_front_ends(exported, images, capsys):
    _, files = exported
    code, document = _verify(capsys, files["coefficients"], files["coefficients"], "--data", images)
    assert code == 0 and document["images"] == 6 and "top1" not in document
    assert document["coefficients"]["count"] == 6 * 36 * 64


def test_spoiled_weights_are_found(exported, images, capsys):
    _, files = exported
    assert cli.main(["verify", str(files["pixels"]), str(files["spoiled"]), "--data", str(images)]) == 1
    out = capsys.readouterr().out
    assert "failed: " in out and "standard deviations, above 0.0001" in out
    code, _ = _verify(capsys, files["pixels"], files["spoiled"], "--data", images, "--logit-tolerance", "100",
                      "--min-top1", "0")  # fmt: skip
    assert code == 0


def test_the_jpeg_layer_is_no_detail(exported, images, capsys):
    """With and without the layer the pixels differ, and so it is said."""
    _, files = exported
    code, document = _verify(capsys, files["layer"], files["pixels"], "--data", images, "--logit-tolerance", "1e-6")
    assert code == 1 and "logits_with_flips" in document and "coefficients" not in document


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["torch:a", "torch:b"], "one of the two is a file"),
        (["none.onnx", "torch:small"], "no file at none.onnx"),
        (["LAYER", "COEFFICIENTS"], "is of form layer, and"),
        (["COEFFICIENTS", "torch:small"], "with no network"),
        (["LAYER", "LAYER", "--weights", "none"], "are of torch:NAME"),
        (["LAYER", "LAYER", "--seed", "-1"], "--seed is at least 0"),
        (["LAYER", "LAYER", "--providers-b", "cuda"], "CUDAExecutionProvider"),
    ],
)
def test_refusals(exported, images, capsys, monkeypatch, options, message):
    model, files = exported
    monkeypatch.setattr("edgejpeg.models.create_model", lambda name, **_: model)
    options = [str(files.get(option.lower(), option)) for option in options]
    assert cli.main(["verify", *options, "--data", str(images)]) in (1, 2)
    assert message in capsys.readouterr().err


def test_damaged_images_are_skipped_and_named(exported, images, capsys):
    _, files = exported
    (images / "broken.png").write_bytes(b"no image")
    code, document = _verify(capsys, files["pixels"], files["pixels"], "--data", images)
    assert code == 0 and document["images"] == 6 and len(document["skipped"]) == 1
    assert cli.main(["verify", *[str(files["pixels"])] * 2, "--data", str(images), "--on-error", "fail"]) == 1
