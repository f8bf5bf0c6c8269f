"""PyTorch's form of a recipe: the same net as netc's, from PyTorch's own modules. Imports nothing of netc."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from bench.recipe_file import Operation, Recipe


class Peer(nn.Module):
    """A recipe as a module: `forward` takes the inputs in their order; gives (total loss, outputs)."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.steps = nn.ModuleList(MODULES[operation.kind](operation) for operation in recipe.operations)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
        values: dict[int, Any] = dict(zip(self.recipe.inputs.values(), inputs, strict=True))
        for operation, step in zip(self.recipe.operations, self.steps, strict=True):
            made = step(*(values[number] for number in operation.inputs))
            for number in operation.outputs:
                values[number] = made
        loss = None
        for number, weight in self.recipe.losses:
            term = values[number] if weight == 1 else weight * values[number]
            loss = term if loss is None else loss + term
        return loss, [values[number] for number in self.recipe.outputs.values()]

    def load(self, weights: Mapping[str, np.ndarray]) -> None:
        """Takes netc's parameters, by "layer/index"."""
        for operation, step in zip(self.recipe.operations, self.steps, strict=True):
            arrays = [weights[name] for name, _, _ in operation.params]
            if operation.kind == "batch_norm":
                *arrays, mean, variance, factor = arrays
                factor = float(factor[0])
                arrays += [mean / factor if factor else mean, variance / factor if factor else variance]
            with torch.no_grad():
                for target, array in zip(stored(step), arrays, strict=True):
                    target.copy_(torch.from_numpy(np.ascontiguousarray(array)).reshape(target.shape))

    def groups(self, rate: float, decay: float) -> list[dict[str, Any]]:
        """An optimiser's parameter groups, with the rates that the prototxt gives each parameter."""
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for operation, step in zip(self.recipe.operations, self.steps, strict=True):
            for (_, lr_mult, decay_mult), param in zip(operation.params, step.parameters(), strict=False):
                groups.setdefault((lr_mult, decay_mult), []).append(param)
        return [
            {"params": params, "lr": rate * lr_mult, "weight_decay": decay * decay_mult}
            for (lr_mult, decay_mult), params in groups.items()
        ]


def stored(step: nn.Module) -> list[torch.Tensor]:
    """A module's parameters and, of a batch norm, its running mean and variance."""
    statistics = [step.running_mean, step.running_var] if isinstance(step, nn.BatchNorm2d) else []
    return [*step.parameters(), *statistics]


class Dense(nn.Linear):
    """A linear layer that makes rows of its input first."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.flatten(1))


class Concat(nn.Module):
    """Joins its inputs along an axis."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return torch.cat(inputs, self.axis)


class Sum(nn.Module):
    """Adds its inputs up."""

    def forward(self, first: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        for other in others:
            first = first + other
        return first


class SoftmaxLoss(nn.Module):
    """The mean cross entropy of scores (N, C, ...) that come to one place per image."""

    def forward(self, scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(scores.flatten(1), labels)


def make_convolution(operation: Operation) -> nn.Module:
    o = operation.options
    return nn.Conv2d(
        o["channels"],
        o["num_output"],
        tuple(o["kernel"]),
        tuple(o["stride"]),
        tuple(o["pad"]),
        tuple(o["dilation"]),
        o["group"],
        o["bias"],
    )


def make_dense(operation: Operation) -> nn.Module:
    o = operation.options
    return Dense(o["columns"], o["num_output"], o["bias"])


def make_pooling(operation: Operation) -> nn.Module:
    o = operation.options
    if o["whole"]:
        return nn.AdaptiveAvgPool2d(1) if o["method"] == "average" else nn.AdaptiveMaxPool2d(1)
    kind = nn.AvgPool2d if o["method"] == "average" else nn.MaxPool2d
    return kind(tuple(o["kernel"]), tuple(o["stride"]), tuple(o["pad"]), ceil_mode=o["ceil"])


def make_batch_norm(operation: Operation) -> nn.Module:
    o = operation.options
    return nn.BatchNorm2d(o["channels"], o["eps"], momentum=1 - o["fraction"])


def make_relu(operation: Operation) -> nn.Module:
    o = operation.options
    if o["slope"]:
        return nn.LeakyReLU(o["slope"], inplace=o["in_place"])
    return nn.ReLU(inplace=o["in_place"])


def make_lrn(operation: Operation) -> nn.Module:
    o = operation.options
    return nn.LocalResponseNorm(o["local_size"], o["alpha"], o["beta"], o["k"])


MODULES: Final[Mapping[str, Callable[[Operation], nn.Module]]] = {
    "batch_norm": make_batch_norm,
    "concat": lambda operation: Concat(operation.options["axis"]),
    "convolution": make_convolution,
    "dense": make_dense,
    "dropout": lambda operation: nn.Dropout(operation.options["ratio"]),
    "lrn": make_lrn,
    "pooling": make_pooling,
    "relu": make_relu,
    "softmax": lambda operation: nn.Softmax(1),
    "softmax_loss": lambda operation: SoftmaxLoss(),
    "split": lambda operation: nn.Identity(),
    "sum": lambda operation: Sum(),
}


def to_tensors(recipe: Recipe, batch: Mapping[str, np.ndarray], device: str) -> Sequence[torch.Tensor]:
    """A batch's arrays as the inputs of a recipe's module: images in float32, labels as whole numbers."""
    arrays = [torch.from_numpy(batch[name]) for name in recipe.inputs]
    return [array.long().to(device) if array.ndim == 1 else array.to(device) for array in arrays]
