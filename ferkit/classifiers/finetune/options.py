"""Where a run keeps its files, and what it takes beside images and recipe."""

from dataclasses import dataclass, field
from pathlib import Path

from ferkit.core.labels import LabelSet
from ferkit.datasets.split import SplitSettings


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where a run keeps its files, and what it takes beside images and recipe.

    Attributes:
        model: folder of the finished model.
        work: folder of checkpoint, curves and logs.
        labels: classes and their order; None takes those of the training part, sorted.
        validate_on: ``val`` takes the data's own validation part, or holds out a share where there is none;
            ``test`` takes the test part, whose figures are then no longer those of unseen images.
        holdout: how a share is held out.
        votes: CSV of soft labels, see :func:`ferkit.classifiers.finetune.targets.read_votes`.
        teacher: folder of a model whose probabilities are learnt too.
        cache: ``auto``, ``memory`` or ``disk``.
        flip: average with the mirrored image when predicting.
        restart: drop the checkpoint of an earlier run.
        overwrite: replace a finished model of the same name.
    """

    model: Path
    work: Path
    labels: LabelSet | None = None
    validate_on: str = "val"
    holdout: SplitSettings = field(default_factory=lambda: SplitSettings(test_size=0.1))
    votes: Path | None = None
    teacher: Path | None = None
    cache: str = "auto"
    flip: bool = False
    restart: bool = False
    overwrite: bool = False
