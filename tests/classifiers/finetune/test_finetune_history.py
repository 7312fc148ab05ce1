from dataclasses import replace

import pytest

from ferkit.classifiers.finetune.history import (
    EpochRecord,
    best_record,
    is_finished,
    learning_rate,
)
from ferkit.classifiers.finetune.recipe import StageSettings

ROW = EpochRecord(1, 1, 1e-3, 1.0, 0.5, 1.0, 0.5, 0.5, 1.0, 100.0)


def rows(*f1: float) -> list[EpochRecord]:
    return [replace(ROW, epoch=i, val_macro_f1=value) for i, value in enumerate(f1, start=1)]


def rates(stage: StageSettings, f1: tuple[float, ...]) -> list[float]:
    return [learning_rate(stage, rows(*f1[:n]), "macro_f1") for n in range(len(f1))]


def test_warmup_rises_in_equal_steps_to_the_peak() -> None:
    stage = StageSettings(epochs=6, learning_rate=0.4, schedule="constant", warmup_epochs=3)
    assert rates(stage, (0.0,) * 6) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])


def test_cosine_begins_at_the_peak_and_ends_at_the_final_share() -> None:
    stage = StageSettings(epochs=5, learning_rate=1.0, schedule="cosine", final=0.1)
    found = rates(stage, (0.0,) * 5)
    assert found[0] == pytest.approx(1.0)
    assert found[2] == pytest.approx(0.55)
    assert found[-1] == pytest.approx(0.1)
    assert found == sorted(found, reverse=True)


def test_exponential_multiplies_each_epoch() -> None:
    stage = StageSettings(epochs=4, learning_rate=1.0, schedule="exponential", decay=0.5)
    assert rates(stage, (0.0,) * 4) == pytest.approx([1, 0.5, 0.25, 0.125])


def test_plateau_drops_after_the_patience_and_waits_anew() -> None:
    stage = StageSettings(epochs=9, learning_rate=1.0, schedule="plateau", decay=0.5, plateau_patience=2)
    found = rates(stage, (0.1, 0.2, 0.2, 0.1, 0.1, 0.1, 0.3, 0.3, 0.3))
    assert found == pytest.approx([1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25])


def test_early_stopping_counts_epochs_since_the_first_best() -> None:
    stage = StageSettings(epochs=10, early_stopping=2)
    assert not is_finished(stage, rows(0.5, 0.5), "macro_f1")
    assert is_finished(stage, rows(0.5, 0.5, 0.4), "macro_f1")
    assert not is_finished(stage, rows(0.5, 0.4, 0.6), "macro_f1")
    assert not is_finished(StageSettings(epochs=10), rows(0.5, 0.4, 0.3, 0.2), "macro_f1")
    assert is_finished(StageSettings(epochs=2), rows(0.1, 0.2), "macro_f1")


def test_the_monitor_decides_which_epoch_is_best() -> None:
    history = [replace(ROW, epoch=1, val_accuracy=0.9, val_macro_f1=0.1), replace(ROW, epoch=2, val_loss=0.4)]
    assert best_record(history, "val_accuracy") is history[0]
    assert best_record(history, "macro_f1") is history[1]
    assert best_record(history, "val_loss") is history[1]
    assert [history[1].shown(monitor) for monitor in ("val_loss", "macro_f1")] == ["0.400", "50.0%"]
    stage = StageSettings(
        epochs=9, early_stopping=1, schedule="plateau", plateau_patience=1, learning_rate=1.0
    )
    worse = [replace(ROW, val_loss=0.5), replace(ROW, epoch=2, val_loss=0.6)]
    assert is_finished(stage, worse, "val_loss")
    assert learning_rate(stage, worse, "val_loss") == 0.5
