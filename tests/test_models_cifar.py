"""The networks for 32x32 images: published parameter counts, real weights; and all of the papers' networks in ONNX."""

from __future__ import annotations

import os
import zipfile

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("PIL")

from edgejpeg.errors import ModelError  # noqa: E402
from edgejpeg.learn.data import open_data  # noqa: E402
from edgejpeg.models import create_model, list_models  # noqa: E402
from edgejpeg.models.cifar import CIFAR100_MEAN, CIFAR100_STD, cifar_names  # noqa: E402
from edgejpeg.models.spec import IMAGENET_MEAN, IMAGENET_STD  # noqa: E402

# Published, in millions: .27, .46, .66, .85, 1.7 for the ResNets (He et al., table 6, 10 classes), 6.96 and 11.17 for
# DenseNet-121 and PreAct ResNet-18 (kuangliu/pytorch-cifar, 10 classes; its PreAct has 11,171,146, without He et al.'s
# last batch norm of 1,024). The ResNets to the last one by the checkpoints of akamaster/pytorch_resnet_cifar10, VGG,
# MobileNetV2 and ShuffleNetV2 (100 classes) by HobbitLong/RepDistiller's networks.
PUBLISHED = {
    "cifar_resnet20": (10, 269_722),
    "cifar_resnet32": (10, 464_154),
    "cifar_resnet44": (10, 658_586),
    "cifar_resnet56": (10, 853_018),
    "cifar_resnet110": (10, 1_727_962),
    "cifar_vgg8": (100, 3_965_028),
    "cifar_vgg13": (100, 9_462_180),
    "cifar_mobilenetv2": (100, 812_836),
    "cifar_shufflenetv2": (100, 1_355_528),
    "cifar_preact_resnet18": (10, 11_171_146 + 1_024),
    "cifar_densenet121": (10, 6_956_298),
}

FAST = ("cifar_resnet20", "cifar_vgg8", "cifar_shufflenetv2")
LARGE = (
    "timm:efficientformer_l1", "squeezenet1_1", "resnet18", "resnet34", "alexnet", "mobilenet_v2", "densenet121",
)  # fmt: skip


def parameters(model):
    return sum(p.numel() for p in model.module.parameters())


@pytest.mark.parametrize("name", cifar_names())
def test_parameters_are_those_published(name):
    classes, count = PUBLISHED[name]
    model = create_model(name, "none", num_classes=classes)
    assert parameters(model) == count
    with torch.inference_mode():
        logits = model.module(torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (3, classes) and bool(torch.isfinite(logits).all()) and float(logits.std()) > 0
    assert {p.dtype for p in model.module.half().parameters()} == {torch.float16}


def test_names_and_defaults():
    assert set(PUBLISHED) == set(cifar_names()) <= set(list_models("cifar_*"))
    model = create_model("cifar_vgg8")
    assert (model.input_size, model.resize, model.num_classes) == ((32, 32), 32, 100)
    assert model.mean == CIFAR100_MEAN == pytest.approx((0.5071 * 255, 0.4867 * 255, 0.4408 * 255))
    assert model.std == CIFAR100_STD == pytest.approx((0.2675 * 255, 0.2565 * 255, 0.2761 * 255))
    assert not model.pretrained and "--weights FILE" in model.notice


def test_gradients_reach_every_parameter():
    for name in (*FAST, "cifar_mobilenetv2", "cifar_preact_resnet18"):
        module = create_model(name, "none", num_classes=5).module.train()
        loss = torch.nn.functional.cross_entropy(module(torch.randn(4, 3, 32, 32)), torch.arange(4))
        loss.backward()
        assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in module.parameters()), name


def test_option_a_shortcut_is_he_et_als():
    """With the convolutions silenced, a stage change halves the image and pads channels with zeros on both sides."""
    module = create_model("cifar_resnet20", "none").module
    block = module.layer2[0]
    with torch.no_grad():
        block.bn2.weight.zero_()
    x = torch.rand(2, 16, 8, 8)
    out = block(x)
    assert out.shape == (2, 32, 4, 4)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2]) and not out[:, :8].any() and not out[:, 24:].any()


def test_normalisation_can_be_replaced():
    model = create_model("cifar_resnet20", "none", mean=IMAGENET_MEAN, std=(1, 2, 4))
    assert model.mean == IMAGENET_MEAN and model.std == (1.0, 2.0, 4.0)
    pixels = torch.full((1, 3, 32, 32), 200.0)
    expected = [(200 - m) / s for m, s in zip(IMAGENET_MEAN, (1, 2, 4), strict=True)]
    assert model.normalise(pixels)[0, :, 0, 0].tolist() == pytest.approx(expected)
    for bad in ({"std": (1, 0, 1)}, {"std": (1, 1)}, {"mean": (0, float("nan"), 0)}, {"mean": (1, 2, 3, 4)}):
        with pytest.raises(ModelError, match=r"is three .*finite numbers"):
            create_model("cifar_resnet20", "none", **bad)


def test_public_cifar10_weights_load_and_classify(shared_data, tmp_path):
    """82 % on JPEGs of quality 75 (91 % on the original pixels, which they were trained on); here 500 of the 10,000."""
    archive = zipfile.ZipFile(shared_data / "images" / "cifar10" / "cifar10_test_jpg.zip")
    first = {}
    for name in sorted(n for n in archive.namelist() if n.endswith(".jpg")):
        first.setdefault(name.rsplit("/", 1)[0], []).append(name)
    archive.extractall(tmp_path, [name for names in first.values() for name in names[:50]])
    data = open_data(tmp_path / "test")
    batch = next(iter(data.batches(500, size=(32, 32))))
    pixels, labels = torch.from_numpy(batch.images), torch.from_numpy(batch.labels)
    for file in sorted((shared_data / "models" / "cifar10").glob("*.th")):
        name = f"cifar_{file.name.split('-')[0]}"
        model = create_model(name, str(file), 10, mean=IMAGENET_MEAN, std=IMAGENET_STD)
        assert model.pretrained
        with torch.inference_mode():
            right = model.module(model.normalise(pixels)).argmax(1) == labels
        assert float(right.float().mean()) > 0.76, name
    with pytest.raises(ModelError, match="do not fit cifar_resnet32"):
        create_model("cifar_resnet32", str(shared_data / "models" / "cifar10" / "resnet20-12fca82f.th"), 10)


@pytest.fixture(scope="module")
def table():
    rows = ["| network | parameters | ONNX Runtime | largest difference | with the layer |", "|---|---|---|---|---|"]
    yield rows
    print("", *rows, sep="\n")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FAST, *(n for n in cifar_names() if n not in FAST), *LARGE])
def test_exports_with_the_jpeg_layer_in_front(name, tmp_path, table):
    """export_onnx itself compares the file with PyTorch; ``-s`` shows the table of docs/networks.md."""
    if name not in FAST and not os.environ.get("EDGEJPEG_ALL_NETWORKS"):
        pytest.skip("all of them take five minutes; set EDGEJPEG_ALL_NETWORKS=1")
    for package in ("onnxruntime", "onnxscript", *(["timm"] if name.startswith("timm:") else [])):
        pytest.importorskip(package)
    from edgejpeg.export import export_onnx, layer_from_quality

    model = create_model(name, "none")
    report = export_onnx(model, tmp_path, layer=layer_from_quality(75, "420"), images=4).report
    assert report.passed and report.top1_agreement == report.images == 4 and report.logit_error < 1e-4
    table.append(
        f"| {name} | {parameters(model):,} | agrees | {report.logit_error:.1e} | {report.end_to_end_error:.1e} |"
    )
