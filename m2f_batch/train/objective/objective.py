"""An objective turns the predictions of a model into a loss. Here is what each of them takes and gives.

The losses themselves are in ``mask_classification``.
"""

import importlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from m2f_batch.errors import RunError
from m2f_batch.models.predictions import Prediction
from m2f_batch.models.training import Training
from m2f_batch.train import distributed


class NonFiniteLoss(RunError):
    """A loss, or a matching cost, that is not finite. ``image_ids`` are those of the images it comes from."""

    def __init__(self, image_ids: Sequence[int], what: str) -> None:
        super().__init__(f"{what} is not finite for the images {', '.join(map(str, image_ids))}")
        self.image_ids, self.what = tuple(image_ids), what

    def __reduce__(self) -> tuple[object, ...]:
        return NonFiniteLoss, (self.image_ids, self.what)


class ImageTarget(NamedTuple):
    """One image's objects on its canvas, as tensors on the device of the logits."""

    image_id: int
    class_ids: Tensor  # int64 [N]
    masks: Tensor  # bool [N, H, W]
    ignored: Tensor | None = None  # bool [H, W]: pixels whose points count for nothing

    def as_numbers(self, dtype: torch.dtype) -> "ImageTarget":
        """Turn the masks' pixels into 0 and 1, which are sampled. Done once for all layers."""
        ignored = None if self.ignored is None else self.ignored.to(dtype)
        return self._replace(masks=self.masks.to(dtype), ignored=ignored)


@dataclass(frozen=True)
class LossSettings:
    """The numbers of a loss on masks of queries, named as in the configurations of transformers."""

    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    no_object_weight: float = 0.1
    train_num_points: int = 12544
    oversample_ratio: float = 3.0
    importance_sample_ratio: float = 0.75
    use_auxiliary_loss: bool = True

    @classmethod
    def of(cls, config: object) -> "LossSettings":
        """Return the settings that a configuration has."""
        return cls(**{name: getattr(config, name) for name in cls.__dataclass_fields__})

    @property
    def candidates(self) -> int:
        """Points looked at per object, of which the most uncertain are taken."""
        return int(self.train_num_points * self.oversample_ratio)

    @property
    def uncertain(self) -> int:
        """Points of the loss that are chosen by uncertainty. The rest is chosen blindly."""
        return int(self.importance_sample_ratio * self.train_num_points)

    @staticmethod
    def dtype(logits: Tensor) -> torch.dtype:
        """Return the precision of the loss: float32, also for bfloat16 logits, or float64."""
        return torch.float64 if logits.dtype == torch.float64 else torch.float32


@dataclass(frozen=True)
class StepTotals:
    """The totals by which the sums of a step are divided: per rank on average, over all its forward passes."""

    masks: float  # objects
    class_weight: float  # weights of all queries in the cross-entropy of classes

    @classmethod
    def count(
        cls, objects: Iterable[int], *, num_queries: int, no_object_weight: float, device: torch.device | None = None
    ) -> "StepTotals":
        """The totals of one optimizer step, from how many objects each image of this rank's share of it has.

        Under ``torch.distributed`` every rank must call this once per step: the totals are summed over the ranks and
        divided by their number, so that DDP's mean of gradients is the gradient of the whole batch's loss, however the
        images are spread over ranks and forward passes. ``device`` is where the sum is made (CUDA for NCCL).
        """
        matched = [min(count, num_queries) for count in objects]
        weight = sum(count + (num_queries - count) * no_object_weight for count in matched)
        sums = torch.tensor([sum(matched), weight], dtype=torch.float64, device=device)
        ranks = distributed.size()
        masks, weights = distributed.total(sums).tolist()
        # at least one each: a batch without objects has no mask loss, and one without images no loss
        return cls(max(masks, 1.0) / ranks, (weights or 1.0) / ranks)


class BatchLoss(NamedTuple):
    """The loss of a forward pass. ``total`` is to be differentiated.

    ``parts`` are its weighted addends, all layers together, without gradient.
    """

    total: Tensor  # []
    parts: dict[str, Tensor]  # class, mask, dice
    image_ids: tuple[int, ...]
    per_image: Tensor  # [B], without gradient; adds up to total

    def check(self) -> None:
        """Raise NonFiniteLoss, naming the images, when the loss is not finite. Waits for the device."""
        finite = self.per_image.isfinite().tolist()
        wrong = [image for image, fine in zip(self.image_ids, finite, strict=True) if not fine]
        if wrong:
            raise NonFiniteLoss(wrong, "the loss")


class Objective(Protocol):
    """An objective says what a model is trained for.

    ``parts`` names the addends of the loss, ``layers`` is how many layers' losses it adds up, and no image can teach
    more than ``most_objects``.
    """

    @property
    def parts(self) -> tuple[str, ...]: ...
    @property
    def most_objects(self) -> int: ...
    @property
    def layers(self) -> int: ...

    def totals(self, objects: Iterable[int], device: torch.device) -> StepTotals:
        """Return the totals of one optimizer step, which every rank must ask for once a step."""
        ...

    def loss(
        self,
        outputs: Sequence[Prediction],
        targets: Sequence[ImageTarget],
        totals: StepTotals,
        *,
        seed: int,
        step: int,
    ) -> BatchLoss:
        """Return the loss of one forward pass, from the predictions of every layer."""
        ...


def objective_of(training: Training, config: object) -> Objective:
    """Return the objective that a family names, with the numbers of a model's configuration."""
    module = importlib.import_module(f"m2f_batch.train.objective.{training.objective}")
    objective: Objective = module.OBJECTIVE(config)
    return objective
