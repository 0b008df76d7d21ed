"""Optimisers of network and tables as a recipe has them, and the running average of weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from edgejpeg.learn.layer import JpegLayer
from edgejpeg.learn.recipe import LayerOptimizerRecipe, OptimizerRecipe


def network_optimizer(recipe: OptimizerRecipe, network: nn.Module) -> torch.optim.Optimizer:
    """``[optimizer]``: with one group, or with a second one for norms and biases, which do not decay.

    Norms and biases are the parameters of at most one dimension, and those that ``network.no_weight_decay()`` names, as
    timm's networks do.
    """
    named = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [{"params": [parameter for _, parameter in named]}]
    if not recipe.decay_norm_and_bias:
        listed = getattr(network, "no_weight_decay", None)
        exempt = set(listed()) if callable(listed) else set()
        spared = {name for name, parameter in named if parameter.ndim <= 1 or name in exempt}
        groups = [
            {"params": [parameter for name, parameter in named if name not in spared]},
            {"params": [parameter for name, parameter in named if name in spared], "weight_decay": 0.0},
        ]
    groups = [{**group, "initial_lr": recipe.lr} for group in groups if group["params"]]
    if recipe.name == "adamw":
        betas = (recipe.betas[0], recipe.betas[1])
        return torch.optim.AdamW(groups, lr=recipe.lr, betas=betas, weight_decay=recipe.weight_decay)
    if recipe.name == "rmsprop":
        # torchvision's reference scripts: eps .0316, alpha .9.
        return torch.optim.RMSprop(
            groups, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, eps=0.0316, alpha=0.9
        )
    return torch.optim.SGD(
        groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov, weight_decay=recipe.weight_decay
    )


def layer_optimizer(recipe: LayerOptimizerRecipe, layer: JpegLayer) -> torch.optim.Optimizer:
    """``[layer.optimizer]``: a group for the steps q, one for alpha where it is learned; nothing decays."""
    groups: list[dict[str, Any]] = [{"params": [layer.luma, layer.chroma], "lr": recipe.lr, "initial_lr": recipe.lr}]
    if isinstance(layer.alpha_luma, nn.Parameter):
        rate = recipe.lr if recipe.alpha_lr is None else recipe.alpha_lr
        groups.append({"params": [layer.alpha_luma, layer.alpha_chroma], "lr": rate, "initial_lr": rate})
    if recipe.name == "adam":
        return torch.optim.Adam(groups, lr=recipe.lr)
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum)


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Every group's first rate times a factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


class Average:
    """A running average of all weights of a module; buffers are copied as they are.

    Attributes:
        module: the average, in the module's shape.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """After a step of the optimiser; the first steps, from 0 on, weigh more."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for kept, new in zip(self.module.parameters(), module.parameters(), strict=True):
            kept.lerp_(new, 1 - decay)
        for copied, present in zip(self.module.buffers(), module.buffers(), strict=True):
            copied.copy_(present)
