"""Recipes: every key has a type and a range, and what is wrong is said in one line."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("torch")

from edgejpeg.errors import InvalidInputError
from edgejpeg.learn.recipe import RECIPES, Recipe, ScheduleRecipe, list_recipes, load_recipe
from edgejpeg.learn.schedule import rate_factor
from edgejpeg.learn.training_layer import layer_for, layer_schedule, rate_term


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.toml")))
def test_shipped_recipes_load_and_make_a_layer(name):
    recipe = load_recipe(name)
    assert list_recipes()[name] == recipe.description and recipe.description
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    ones = [[1.0] * 8] * 8
    layer = layer_for(recipe.layer, (ones, ones))
    layer_schedule(recipe.layer).apply(layer, 0.0)
    rate_term(recipe.layer)


def test_the_published_numbers():
    """Those of the papers' section 5 and appendix, as docs/training.md has them."""
    cifar, fine, imagenet = (load_recipe(name) for name in ("cifar100", "finegrained", "imagenet-h0.7"))
    assert (cifar.schedule.epochs, cifar.run.batch_size, cifar.optimizer.lr) == (240, 64, 0.05)
    assert (cifar.optimizer.momentum, cifar.optimizer.weight_decay) == (0.9, 5e-4)
    assert (cifar.schedule.milestones, cifar.data.crop, cifar.data.pad) == ((150, 180, 210), "pad", 4)
    assert (cifar.layer.optimizer.name, cifar.layer.optimizer.lr, cifar.layer.alpha, cifar.layer.bits) == (
        "adam", 0.003, 5.0, 8,
    )  # fmt: skip
    assert (fine.schedule.epochs, fine.run.batch_size, fine.optimizer.lr, fine.optimizer.weight_decay) == (
        200, 32, 0.1, 1e-4,
    )  # fmt: skip
    assert (fine.schedule.milestones, fine.layer.optimizer.lr, fine.data.size) == ((100, 150), 0.005, 224)
    assert (imagenet.layer.hardness, imagenet.layer.bits) == (0.7, 11)
    assert (imagenet.layer.optimizer.name, imagenet.layer.optimizer.lr, imagenet.layer.optimizer.momentum) == (
        "sgd", 0.5, 0.9,
    )  # fmt: skip
    former = load_recipe("efficientformer")
    assert (former.run.batch_size, former.optimizer.lr, former.schedule.warmup) == (512, 2e-3, 50)
    assert {r.layer.q_min for r in (cifar, fine, imagenet, former)} == {1e-5}


def test_recipes_are_laid_over_each_other(tmp_path):
    own = tmp_path / "own.toml"
    own.write_text('[layer]\nsubsampling = 420\n[layer.optimizer]\nname = "sgd"\n')
    recipe = load_recipe("cifar100", own, settings=["run.seed=3", "data.validation=.1", "layer.hardness=none"])
    assert recipe.layer.subsampling == "420" and recipe.layer.optimizer.name == "sgd"
    assert recipe.layer.optimizer.lr == 0.003 and recipe.layer.bits == 8  # from below
    assert (recipe.run.seed, recipe.data.validation, recipe.layer.hardness) == (3, 0.1, None)
    assert recipe.schedule.epochs == 240


def test_without_a_file_there_are_defaults():
    assert load_recipe() == Recipe()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("run.sede=3", "unknown key run.sede: did you mean seed?"),
        ("layer.rate.target_bp=1", "unknown key layer.rate.target_bp: did you mean target_bpp?"),
        ("optimiser.lr=1", "unknown key optimiser: did you mean optimizer?"),
        ("run.seed=1.5", "run.seed is an integer; got 1.5"),
        ("run.seed=true", "run.seed is an integer; got True"),
        ("layer.clip=1", "layer.clip is true or false; got 1"),
        ("optimizer.lr=nan", "optimizer.lr is above 0 and at most 100; got nan"),
        ("optimizer.lr=fast", "optimizer.lr is a number; got 'fast'"),
        ("optimizer.lr=none", "optimizer.lr is a number; got 'none'"),
        ("optimizer.momentum=1", "optimizer.momentum is at least 0 and below 1; got 1"),
        ("layer.subsampling=411", "layer.subsampling is '444' or '422' or '420'; got 411"),
        ("data.scale=[.5]", "data.scale is a list of numbers"),
        ("data.scale=[0.5]", "data.scale is a list of numbers, 2 of them; got [0.5]"),
        ("data.scale=[0.5, 0.1]", "data.scale and data.ratio are [least, largest]"),
        ("data=3", "[data] is a section with keys; got 3"),
        ("schedule.milestones=[30, 20]", "schedule.milestones rise; got [30, 20]"),
        ("schedule.milestones=[]", "schedule.milestones is empty"),
        ("layer.q_min=300", "layer.q_min is above 0 and at most 255; got 300"),
        ("run.accumulation=7", "run.batch_size 64 is no multiple of run.accumulation 7"),
        ("seed", "takes section.key=value, such as run.seed=3; got 'seed'"),
        ("=3", "takes section.key=value"),
    ],
)
def test_a_wrong_value_is_one_clear_line(setting, message):
    with pytest.raises(InvalidInputError) as caught:
        load_recipe("cifar100", settings=[setting])
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        ["layer.q_min=9", "layer.q_max=3"],
        ["layer.learn_alpha=true", "layer.hardness=2"],
        ["layer.hardness=2", "layer.schedule.hardness=[2, 20]"],
        ["layer.rate.weight=1", "layer.rate.target_bpp=1"],
        ["schedule.warmup=300"],
        ["optimizer.name=adamw", "optimizer.nesterov=true"],
    ],
)
def test_values_that_contradict_each_other(settings):
    with pytest.raises(InvalidInputError):
        load_recipe("cifar100", settings=settings)


def test_files_that_are_no_recipes(tmp_path):
    with pytest.raises(InvalidInputError, match=r"unknown recipe 'cifar10': did you mean cifar100\? shipped are"):
        load_recipe("cifar10")
    with pytest.raises(InvalidInputError, match=r"cannot read the recipe .*none\.toml"):
        load_recipe(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[run\n")
    with pytest.raises(InvalidInputError, match="is no TOML"):
        load_recipe(broken)
    broken.write_text("[run]\nepochs = 3\n")
    with pytest.raises(InvalidInputError, match=r"broken.toml': unknown key run.epochs"):
        load_recipe("cifar100", broken)


def test_rates_against_the_schedulers_of_pytorch():
    import torch

    def pytorch(scheduler, steps):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        schedule = scheduler(optimizer)
        rates = []
        for _ in range(steps):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return rates

    lr = torch.optim.lr_scheduler
    milestones = ScheduleRecipe(epochs=10, kind="milestones", milestones=(3, 7), gamma=0.1)
    wanted = pytorch(lambda o: lr.MultiStepLR(o, [3, 7], 0.1), 10)
    assert [rate_factor(milestones, 4 * epoch + 3, 4) for epoch in range(10)] == pytest.approx(wanted)
    steps = ScheduleRecipe(epochs=10, kind="step", step=3, gamma=0.5)
    assert [rate_factor(steps, 4 * e, 4) for e in range(10)] == pytest.approx(
        pytorch(lambda o: lr.StepLR(o, 3, 0.5), 10)
    )
    cosine = ScheduleRecipe(epochs=5, kind="cosine")
    wanted = pytorch(lambda o: lr.CosineAnnealingLR(o, 20), 20)
    assert [rate_factor(cosine, step, 4) for step in range(20)] == pytest.approx(wanted)
    warm = ScheduleRecipe(epochs=5, kind="cosine", warmup=2, final=0.1)
    rates = [rate_factor(warm, step, 4) for step in range(20)]
    assert rates[:8] == pytest.approx([(k + 1) / 8 for k in range(8)]) and rates[8] == 1
    assert rates[19] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 11 / 12)))
    assert rate_factor(ScheduleRecipe(kind="constant"), 17, 4) == 1


def test_the_documentation_has_every_key(repository):
    text = (repository / "docs" / "training.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `[")}

    def check(document, name):
        for key, value in document.items():
            if isinstance(value, dict):
                check(value, f"{name}.{key}" if name else key)
            elif name:
                assert f"`{key}`" in rows[f"[{name}]"], (name, key)

    check(Recipe().to_dict(), "")
    assert all(f"`{name}`" in text for name in list_recipes())
