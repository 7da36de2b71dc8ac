"""The Lightning module: MuSc in anomalib's Engine."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from anomalib import LearningType
from anomalib.data import InferenceBatch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule, MemoryBankMixin
from anomalib.visualization import Visualizer
from torch import Tensor, nn
from torch.utils.data import DataLoader, SequentialSampler

from ..features.extraction import BatchFeatures
from ..image_scores import Judge
from ..musc import DEFAULT_BACKBONE
from ..musc import MuSc as Pipeline
from ..recipes import DEFAULT_RECIPE
from ..scoring.scores import BatchScores
from ..threshold import Threshold
from .processors import MuScPostProcessor, MuScPreProcessor
from .scorer import Scorer

logger = logging.getLogger(__name__)


class BankModel(nn.Module):
    """Images [N, 3, h, w] in 0..1 to scores against the bank; the bank is part of the state.

    arguments: of `musc_fast.MuSc`.
    bank_size: see `Scorer`.
    """

    def __init__(self, arguments: dict[str, Any], bank_size: int | None) -> None:
        super().__init__()
        self.arguments, self.bank_size = arguments, bank_size
        self.scorer = Scorer(Pipeline(**arguments), bank_size)

    def forward(self, images: Tensor) -> InferenceBatch:
        """Raw scores and maps, on the device of the images."""
        return predictions(self.scorer.against_bank(images), images.device)

    def get_extra_state(self) -> dict[str, Any]:
        """The bank, for checkpoints."""
        return self.scorer.state()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take up the bank of a checkpoint."""
        self.scorer.load_state(state)

    def use_device(self, device: str) -> None:
        """Load the backbone on another type of device, where none was asked for by name."""
        if self.arguments.get("device", "auto") != "auto":
            return
        if device != self.scorer.musc.backbone.device.type:
            state = self.scorer.state()
            self.scorer = Scorer(Pipeline(**{**self.arguments, "device": device}), self.bank_size)
            self.scorer.load_state(state)

    def __getstate__(self) -> dict[str, Any]:
        """What a pickled model holds (`export_type="torch"`): arguments and bank, no backbone."""
        own = {name: value for name, value in self.__dict__.items() if name != "scorer"}
        return {**own, "bank": self.scorer.state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        bank = state.pop("bank")
        vars(self).update(state)
        self.scorer = Scorer(Pipeline(**self.arguments), self.bank_size)
        self.scorer.load_state(bank)


def predictions(
    scores: BatchScores, device: torch.device, rows: Sequence[int] | None = None
) -> InferenceBatch:
    """Scores of some rows (None: all), as anomalib's models return them."""
    chosen = slice(None) if rows is None else list(rows)
    return InferenceBatch(
        pred_score=scores.image_scores[chosen].to(device),
        anomaly_map=scores.anomaly_maps[chosen].to(device),
    )


class MuSc(MemoryBankMixin, AnomalibModule):
    """MuSc in anomalib (Li et al., ICLR 2024): no training, no labels, no prompts.

    backbone: as for `musc_fast.MuSc`.
    image_size: int or (height, width), a multiple of the patch; None: the backbone's own.
    recipe: a name from `musc_fast.recipes.RECIPES`.
    zero_shot: False: `fit` takes the training images, good or unlabelled, as a bank, and each
        image is scored against it. True: nothing is fitted, and the images of a test, a validation
        or a prediction score each other, all of a dataloader together.
    bank_size: images of the bank at most; None: all. Each takes about a megabyte and more, see
        `ReferenceBank`.
    threshold, false_alarms: see `MuScPostProcessor`.
    device: "auto" is the Engine's.
    options: further arguments of `musc_fast.MuSc`, as {"weights": "vit.safetensors"}.
    pre_processor, post_processor, evaluator, visualizer: as for every model of anomalib; True
        takes `MuScPreProcessor`, `MuScPostProcessor` and anomalib's own evaluator and visualizer.

    Raises ValueError where an argument is wrong, `WeightsError` where there are no weights.
    """

    def __init__(
        self,
        backbone: str = DEFAULT_BACKBONE,
        image_size: int | tuple[int, int] | None = None,
        recipe: str = DEFAULT_RECIPE,
        zero_shot: bool = False,
        bank_size: int | None = None,
        threshold: str | float = "auto",
        false_alarms: float | None = None,
        device: str = "auto",
        options: dict[str, Any] | None = None,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        Judge(false_alarms=false_alarms)  # refuses a wrong rate before the weights are read
        if post_processor is True:
            post_processor = MuScPostProcessor(threshold, false_alarms)
        size = tuple(image_size) if isinstance(image_size, list | tuple) else image_size
        arguments = {
            "backbone": backbone,
            "image_size": size,
            "recipe": recipe,
            "device": device,
            **(options or {}),
        }
        model = BankModel(arguments, bank_size)
        loaded = model.scorer.musc.backbone
        if pre_processor is True:
            pre_processor = MuScPreProcessor(loaded.image_size, loaded.spec.interpolation)
        super().__init__(
            pre_processor=pre_processor,
            post_processor=post_processor,
            evaluator=evaluator,
            visualizer=visualizer,
        )
        self.model = model
        self.zero_shot = zero_shot
        self._wholes: dict[int, _Whole] = {}  # zero-shot, by dataloader
        self._nameless = 0

    @classmethod
    def configure_pre_processor(cls, image_size: tuple[int, int] | None = None) -> MuScPreProcessor:
        """The pre-processor of the default backbone for a size, 392 x 392 by default."""
        return MuScPreProcessor(image_size or (392, 392))

    def configure_post_processor(self) -> MuScPostProcessor:
        """The post-processor with its defaults."""
        return MuScPostProcessor()

    @property
    def learning_type(self) -> LearningType:
        """ZERO_SHOT or ONE_CLASS."""
        return LearningType.ZERO_SHOT if self.zero_shot else LearningType.ONE_CLASS

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """One pass over the training images on one device; no validation that nobody reads."""
        arguments: dict[str, Any] = {
            "gradient_clip_val": 0,
            "max_epochs": 1,
            "num_sanity_val_steps": 0,
            "devices": 1,
        }
        if not self._validation_is_read:
            arguments["limit_val_batches"] = 0
        return arguments

    @property
    def _validation_is_read(self) -> bool:
        post = self.post_processor
        metrics = self.evaluator is not None and len(self.evaluator.val_metrics) > 0
        own = isinstance(post, MuScPostProcessor)
        return metrics or (post is not None and not own) or (own and post.wants_validation)

    @staticmethod
    def configure_optimizers() -> None:
        """There is nothing to optimise."""

    def setup(self, stage: str) -> None:
        """Load the backbone where the Engine computes, unless a device was asked for."""
        self.model.use_device(self.trainer.strategy.root_device.type)

    def on_train_start(self) -> None:
        """Begin a new bank."""
        self.model.scorer.begin()
        self._nameless = 0
        self._is_fitted = torch.tensor([False], dtype=torch.bool, device=self.device)

    def training_step(self, batch: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Collect a batch of training images for the bank."""
        names = batch.image_path
        if names is None:
            names = [f"image {self._nameless + k}" for k in range(len(batch.image))]
            self._nameless += len(names)
        self.model.scorer.collect(batch.image, [str(name) for name in names])
        return torch.zeros((), dtype=torch.float32, device=self.device, requires_grad=True)

    def fit(self) -> None:
        """Make the bank, and with "auto" the threshold that it gives."""
        scorer, post = self.model.scorer, self.post_processor
        flags = isinstance(post, MuScPostProcessor) and post.threshold == "auto"
        scorer.finish(measure=flags)
        if flags:
            level, middle = scorer.level(post.false_alarms)
            if level is None:
                logger.warning(
                    "nothing will be flagged: a bank of %d images cannot tell at this rate of "
                    "false alarms; give more images, or a threshold",
                    len(scorer.bank or ()),
                )
            post.set_level(level, middle)

    def val_dataloader(self) -> list[Any]:
        """No images, where the Engine validates and has been given none."""
        return []

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Raw scores of labelled images."""
        return self._step(batch, dataloader_idx)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Scores of a batch of test images."""
        return self._step(batch, dataloader_idx)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Scores of a batch of images."""
        return self._step(batch, dataloader_idx)

    def on_validation_start(self) -> None:
        """Zero-shot: score the validation images; otherwise see that there is a bank."""
        if not self.zero_shot:
            super().on_validation_start()
        else:
            self._score_all(self.trainer.val_dataloaders, self.trainer.num_val_batches)

    def on_test_start(self) -> None:
        """Zero-shot: score all test images among themselves."""
        if self.zero_shot:
            self._score_all(self.trainer.test_dataloaders, self.trainer.num_test_batches)

    def on_predict_start(self) -> None:
        """Zero-shot: score all images among themselves."""
        if self.zero_shot:
            self._score_all(self.trainer.predict_dataloaders, self.trainer.num_predict_batches)

    def forward(self, batch: Tensor, *args: Any, **kwargs: Any) -> InferenceBatch:
        """Images of any size, [N, 3, h, w] in 0..1, to processed scores against the bank."""
        return super().forward(batch)

    def to_onnx(self, *args: Any, **kwargs: Any) -> Path:
        """Refuse: raises NotImplementedError."""
        raise NotImplementedError(
            "MuSc is no single network: each image is compared with all images of a bank; export "
            "with export_type='torch'"
        )

    to_openvino = to_onnx

    def _step(self, batch: Any, dataloader_idx: int) -> Any:
        if not self.zero_shot:
            return batch.update(**self.model(batch.image)._asdict())
        whole = self._wholes[dataloader_idx]
        rows = [whole.places[key] for key in whole.keys(batch)]
        found = predictions(whole.scores, batch.image.device, rows)
        batch.update(**found._asdict())
        post = self.post_processor
        if whole.threshold is not None and isinstance(post, MuScPostProcessor):
            post.judge_batch(batch, whole.scores, whole.threshold, rows)
        return batch

    def _score_all(self, loaders: Any, limits: Sequence[float]) -> None:
        """Score the images of each dataloader among themselves, before its batches are stepped."""
        self._wholes = {}
        if loaders is None:
            return
        loaders = list(loaders) if isinstance(loaders, list | tuple) else [loaders]
        for place, (loader, limit) in enumerate(zip(loaders, limits, strict=False)):
            whole, found = _Whole(), []
            for batch in _first(loader, limit):
                keys = whole.keys(batch)
                if keys and isinstance(keys[0], int):
                    _check_order(loader)
                whole.places.update(
                    zip(keys, range(whole.count, whole.count + len(keys)), strict=True)
                )
                whole.count += len(keys)
                found.append(self._features(batch.image))
            if not found:
                continue
            whole.scores = self.model.scorer.among_themselves(found)
            whole.seen = 0
            if isinstance(self.post_processor, MuScPostProcessor):
                whole.threshold = self.post_processor.judge(whole.scores)
            logger.info("scored %d images among themselves", whole.count)
            self._wholes[place] = whole

    def _features(self, images: Tensor) -> BatchFeatures:
        transform = getattr(self.pre_processor, "transform", None)
        prepared = images if transform is None else transform(images)
        scorer = self.model.scorer
        return scorer.features(prepared, cls=scorer.musc.use_cls)


class _Whole:
    """All images of a dataloader, scored among themselves.

    places: the row of each image in `scores`, by its path, or by its number where it has none.
    """

    scores: BatchScores

    def __init__(self) -> None:
        self.places: dict[str | int, int] = {}
        self.count = self.seen = 0
        self.threshold: Threshold | None = None

    def keys(self, batch: Any) -> list[str | int]:
        """What tells the images of the next batch apart."""
        start = self.seen
        self.seen += len(batch.image)
        if batch.image_path is None:
            return list(range(start, self.seen))
        return [str(path) for path in batch.image_path]


def _first(loader: Any, limit: float) -> Iterator[Any]:
    """The batches that the Engine will take of a dataloader, by an iterator of their own.

    Lightning's batch sampler for predictions has one iterator at a time, the Engine's.
    """
    sampler = getattr(loader, "batch_sampler", None)
    if isinstance(loader, DataLoader) and sampler is not None:
        loader = DataLoader(
            loader.dataset,
            batch_size=getattr(sampler, "batch_size", None) or 1,
            sampler=getattr(sampler, "sampler", loader.sampler),
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
        )
    return iter(loader) if limit == float("inf") else islice(iter(loader), int(limit))


def _check_order(loader: Any) -> None:
    sampler = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
    if not isinstance(sampler, SequentialSampler):
        raise ValueError(
            "zero_shot takes the images twice, and images without a path in an order that "
            "changes cannot be told apart; give image_path, or a dataloader with shuffle=False"
        )
