"""Accuracy under attack: what is counted, what a file hides, and ``edgejpeg attack`` from end to end."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("PIL")
pytest.importorskip("tqdm")
cv2 = pytest.importorskip("cv2")

from PIL import Image  # noqa: E402

from edgejpeg.cli import main  # noqa: E402
from edgejpeg.errors import DataError, InvalidInputError  # noqa: E402
from edgejpeg.evaluate.robustness import WORST, Files, measure_robustness, systems_of  # noqa: E402
from edgejpeg.jpeg.tables import ijg_tables  # noqa: E402
from edgejpeg.learn.attacks import fgsm, loss_gradient, pgd, whole_pixels  # noqa: E402
from edgejpeg.learn.data import open_data  # noqa: E402
from edgejpeg.learn.layer import JpegLayer  # noqa: E402
from edgejpeg.models import register_model, registry  # noqa: E402
from edgejpeg.profile import Profile  # noqa: E402
from edgejpeg.runtime import encode_jpeg  # noqa: E402

SIDE, CLASSES = 16, 2


class Stripes(torch.nn.Module):
    """Class 0 where horizontal stripes outweigh vertical ones: a network with weights by hand."""

    def __init__(self, classes=CLASSES):
        super().__init__()
        y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
        stripes = torch.stack([torch.cos(torch.pi * y / 4), torch.cos(torch.pi * x / 4)])
        self.filters = torch.nn.Parameter(stripes[:, None].expand(2, 3, SIDE, SIDE) / (3 * SIDE * SIDE))
        self.scale = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        return self.scale * torch.einsum("nchw,kchw->nk", x, self.filters)


@pytest.fixture(autouse=True)
def _stripes(monkeypatch):
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    register_model("stripes", Stripes, input_size=(SIDE, SIDE), num_classes=CLASSES, mean=(0, 0, 0), std=(1, 1, 1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("stripes")
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    for label, name in enumerate(("horizontal", "vertical")):
        (root / name).mkdir()
        for index in range(12):
            wave = np.cos(np.pi * (y, x)[label] / 4) * (2 + index)
            pixels = 128 + wave[..., None] + rng.normal(0, 4, (SIDE, SIDE, 3))
            Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)).save(root / name / f"{index:02}.png")
    return root


def decode(data):
    return np.ascontiguousarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1])


def codec(quality=75, subsampling="420"):
    tables = ijg_tables(quality)
    return Files(lambda image: encode_jpeg(image, tables=tables, subsampling=subsampling), decode)


def batches(folder, size):
    return open_data(folder).batches(size, size=(SIDE, SIDE), seed=1)


def test_figures_are_those_of_the_attacks_one_by_one(folder):
    network = Stripes().eval()
    (batch,) = batches(folder, 24)
    images, labels = torch.from_numpy(batch.images).float(), torch.from_numpy(batch.labels)
    eps = [3, 8]
    result = measure_robustness(systems_of(network), batches(folder, 7), eps=eps, attacks=("pgd", "fgsm"))
    assert result.labels.tolist() == batch.labels.tolist()  # the batch size does not matter
    clean = (network(images).argmax(1) == labels).numpy()
    np.testing.assert_array_equal(result.clean["network"], clean)
    assert clean.all()
    gradient = loss_gradient(network)
    both = {}
    for attack, function in (("fgsm", fgsm), ("pgd", pgd)):
        for value in eps:
            moved = whole_pixels(function(gradient, images, labels, value), images, value)
            right = (network(moved).argmax(1) == labels).numpy()
            np.testing.assert_array_equal(result.attacked["network", attack, value], right)
            both[value] = both.get(value, clean) & right
    for value in eps:
        np.testing.assert_array_equal(result.attacked["network", WORST, value], both[value])
    figures = result.figures()["network"]
    less, more = figures["attacks"]["pgd"][3], figures["attacks"]["pgd"][8]
    assert figures["clean"].value == 1 > less.value > more.value and less.low <= less.value <= less.high
    assert less.value == result.attacked["network", "pgd", 3].mean()


def test_files_hide_the_gradient_and_adaptive_attacks_find_it(folder):
    network = Stripes().eval().requires_grad_(False)
    result = measure_robustness(systems_of(network, files=codec()), batches(folder, 8), eps=[4])
    accuracy = {attack: correct.mean() for (system, attack, _), correct in result.attacked.items() if system == "files"}
    clean = result.clean["files"].mean()
    assert accuracy["fgsm"] == accuracy["pgd"] == clean > 0.9  # nothing moved
    assert max(accuracy["bpda"], accuracy["soft"], accuracy["transfer"]) < clean - 0.2
    assert accuracy[WORST] <= min(accuracy.values())


def test_bpda_is_the_gradient_at_the_files_pixels(folder):
    network, files = Stripes().eval(), codec(30)
    (batch,) = batches(folder, 24)
    images, labels = torch.from_numpy(batch.images).float(), torch.from_numpy(batch.labels)
    decoded = torch.from_numpy(
        np.stack([decode(encode_jpeg(i.transpose(1, 2, 0).copy(), tables=ijg_tables(30))) for i in batch.images])
    ).permute(0, 3, 1, 2)
    assert torch.equal(files(images), decoded.float())
    bpda = systems_of(network, files=files)[-1].gradients["bpda"](images)
    torch.testing.assert_close(bpda(images, labels), loss_gradient(network)(decoded.float(), labels))


def test_soft_attack_takes_each_files_own_tables(folder):
    """With an encoder whose quality depends on the image, as that of an adaptive profile does."""

    def encode(image):
        return encode_jpeg(image, tables=ijg_tables(30 if image[0, 0, 0] > 128 else 80), subsampling="444")

    network, files = Stripes().eval(), Files(encode, decode)
    (batch,) = batches(folder, 24)
    images, labels = torch.from_numpy(batch.images).float(), torch.from_numpy(batch.labels)
    luma, chroma = files.tables(images)
    coarse = [i for i in range(24) if batch.images[i, 0, 0, 0] > 128]
    assert 0 < len(coarse) < 24
    for i in range(24):
        expected = ijg_tables(30 if i in coarse else 80)
        assert luma[i].tolist() == expected[0].array.tolist() and chroma[i].tolist() == expected[1].array.tolist()
    found = systems_of(network, files=files, subsampling="444", hardness=3.0)[-1].gradients["soft"](images)
    gradient = found(images, labels)
    layer = JpegLayer(*ijg_tables(30), "444", hardness=3.0)
    expected = loss_gradient(lambda x: network(layer(x)))(images[coarse], labels[coarse])
    torch.testing.assert_close(gradient[coarse], expected)
    gray = Files(lambda image: encode_jpeg(image, quality=50, subsampling="gray"), decode)
    with pytest.raises(InvalidInputError, match="gray"):
        gray.tables(images)


def test_bad_input_is_said(folder):
    network = Stripes()
    systems = systems_of(network)
    for options, message in (
        ({"eps": []}, "eps is 1 to 255"),
        ({"eps": [0.5]}, "eps is 1 to 255"),
        ({"eps": [1], "attacks": ("pgd", "cw")}, "attacks are fgsm"),
        ({"eps": [1], "attacks": ()}, "got none"),
        ({"eps": [1], "attacks": ("bpda",)}, "bpda is for a network behind JPEG"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            measure_robustness(systems, batches(folder, 8), **options)
    with pytest.raises(DataError, match="no images"):
        measure_robustness(systems, [], eps=[1], attacks=("pgd",))
    unlabelled = next(iter(batches(folder, 8)))._replace(labels=None)
    with pytest.raises(DataError, match="need labels"):
        measure_robustness(systems, [unlabelled], eps=[1], attacks=("pgd",))


def attack(capsys, *arguments, code=0):
    assert main(["attack", *map(str, arguments)]) == code
    out, err = capsys.readouterr()
    return out if code == 0 else err


def test_command_with_a_profile(folder, tmp_path, capsys):
    luma, chroma = ijg_tables(60)
    profile = tmp_path / "ijg60.toml"
    Profile.fixed(name="ijg60", luma=luma, chroma=chroma, subsampling="420").save(profile)
    options = ("--model", "stripes", "--data", folder, "-p", profile, "--eps", 1, 4, "--batch-size", 5)
    document = json.loads(attack(capsys, *options, "--json"))
    assert document["images"] == 24 and document["profile"] == "ijg60" and document["steps"] == 5
    assert list(document["systems"]) == ["network", "files"]
    files = document["systems"]["files"]["attacks"]
    assert list(files) == ["fgsm", "pgd", "bpda", "soft", "transfer", WORST] and list(files["pgd"]) == ["1", "4"]
    assert files["bpda"]["4"]["value"] < files["pgd"]["4"]["value"]
    assert document == json.loads(attack(capsys, *options[:-1], 24, "--json"))  # batch size
    few = json.loads(attack(capsys, *options, "--images", 9, "--random-start", "--attack", "pgd", "bpda", "--json"))
    assert few["images"] == 9 and list(few["systems"]["files"]["attacks"]) == ["pgd", "bpda", WORST]
    table = attack(capsys, *options)
    assert "24 images of" in table and "behind files" in table and "eps 4/255" in table and "transfer" in table
    shipped = json.loads(
        attack(
            capsys, *options[:4], "-p", "efficientnet_lite0", "--eps", 2, "--attack", "soft", "--images", 4, "--json"
        )
    )
    assert list(shipped["systems"]["files"]["attacks"]) == ["soft", WORST]  # tables anew in every file


def test_command_with_a_trained_run(folder, tmp_path, capsys, write_run):
    run = write_run(tmp_path / "run", "stripes", JpegLayer(*ijg_tables(70), "420", hardness=4.0, bits=11))
    document = json.loads(attack(capsys, "--run", run, "--data", folder, "--eps", 4, "--json"))
    assert list(document["systems"]) == ["network", "layer", "files"] and document["run"] == str(run)
    layer, files = (document["systems"][name]["attacks"] for name in ("layer", "files"))
    assert list(layer) == ["fgsm", "pgd", "transfer", WORST] and "soft" in files
    assert layer["pgd"]["4"]["value"] < document["systems"]["layer"]["clean"]["value"]
    assert files["pgd"]["4"] == document["systems"]["files"]["clean"] != files["soft"]["4"]
    rounds = write_run(tmp_path / "rounds", "stripes", JpegLayer(*ijg_tables(70), "420", rounds=2))
    assert main(["attack", "--run", str(rounds), "--data", str(folder), "--eps", "4", "--json"]) == 0
    out, err = capsys.readouterr()
    assert list(json.loads(out)["systems"]) == ["network", "layer"] and "2 rounds" in err
    baseline = write_run(tmp_path / "baseline", "stripes", None)
    alone = json.loads(attack(capsys, "--run", baseline, "--data", folder, "--eps", 4, "--json"))
    assert list(alone["systems"]) == ["network"] and alone["systems"]["network"] == document["systems"]["network"]


def test_command_refuses_in_one_line(folder, tmp_path, capsys):
    data = ("--data", folder)
    for arguments, message, code in (
        (data, "give --model NAME, or --run RUN", 2),
        (("--model", "stripes", "--run", tmp_path, *data), "give --model NAME, or --run RUN", 2),
        (("--run", tmp_path, "--weights", "none", *data), "leave out --weights", 2),
        (("--run", tmp_path / "none", *data), "no folder", 1),
        (("--run", folder, *data), "no finished training", 1),
        (("--model", "stripes", "--seed", -1, *data), "--seed is at least 0", 2),
        (("--model", "stripes", "--num-classes", 3, *data), "2 class folders, stripes 3 classes", 1),
        (("--model", "stripes", "--data", folder / "vertical"), "has no labels", 1),
        (("--model", "stripes", "--attack", "bpda", *data), "bpda is for a network behind JPEG", 2),
        (("--model", "stripes", "--eps", ".5", *data), "eps is 1 to 255", 2),
    ):
        err = attack(capsys, *arguments, code=code)
        line = [one for one in err.splitlines() if "error:" in one]
        assert len(line) == 1 and message in line[0], err
