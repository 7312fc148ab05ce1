from pathlib import Path

import pytest

from ferkit.classifiers.finetune.recipe import (
    AugmentationSettings,
    SamplingSettings,
    load_recipe,
    parse_change,
    recipe_names,
)
from ferkit.core.errors import TrainingError


def test_all_recipes_can_be_read() -> None:
    assert set(recipe_names()) >= {"teasing", "aihub", "interview", "vgg-transfer", "quick"}
    for name in recipe_names():
        assert load_recipe(name).stages


def test_aihub_has_the_values_of_the_earlier_project() -> None:
    recipe = load_recipe("aihub")
    head, all_layers = recipe.stages
    assert (head.epochs, head.learning_rate, head.unfreeze, head.mix) == (6, 3e-4, "none", True)
    assert (all_layers.epochs, all_layers.learning_rate, all_layers.mix) == (42, 2e-5, False)
    assert (all_layers.early_stopping, all_layers.plateau_patience, all_layers.decay) == (8, 3, 0.5)
    a = recipe.augmentation
    assert (a.mixup_alpha, a.mixup_probability, a.cutmix_alpha, a.cutmix_probability) == (0.2, 0.7, 0.2, 0.3)
    assert recipe.optimizer.ema == 0.999


def test_changes_reach_every_depth() -> None:
    changes = dict(
        map(parse_change, ("seed=7", "network.input_size_wh=[64, 48]", "stages.2.unfreeze=from:block6a"))
    )
    recipe = load_recipe("interview", changes)
    assert recipe.seed == 7
    assert recipe.network.input_size_wh == (64, 48)
    assert recipe.stages[1].unfreeze == "from:block6a"
    assert recipe.stages[0] == load_recipe("interview").stages[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("network.dropuot=0.5", "unknown setting network.dropuot.*dropout"),
        ("stages.3.epochs=1", "stage from 1 to 2"),
        ("network.dropout=much", "expected float for network.dropout, found 'much'"),
        ("batch_size=1.5", "expected int for batch_size"),
        ("batch_size=true", "expected int for batch_size"),
        ("seed.deep.er=1", "expected int for seed"),
        ("network.color=green", "gray, rgb"),
        ("stages.1.unfreeze=some", "last:N"),
        ("stages.2.schedule=linear", "constant, cosine, exponential, plateau"),
        ("network.input_size_wh=[8, 8]", "at least 16x16"),
        ("stages.2.epochs", "name=value"),
    ],
)
def test_a_change_that_cannot_be_is_refused_and_named(change: str, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        load_recipe("aihub", dict([parse_change(change)]))


def test_own_files_are_recipes(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("batch_size = 8\n[[stages]]\nepochs = 1\n")
    assert load_recipe(str(tmp_path / "mine.toml")).batch_size == 8
    (tmp_path / "broken.toml").write_text("batch_size = = 8")
    with pytest.raises(TrainingError, match="cannot be read"):
        load_recipe(str(tmp_path / "broken.toml"))
    with pytest.raises(TrainingError, match="known: aihub"):
        load_recipe("unheard-of")


def test_values_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(TrainingError, match="at most 1"):
        AugmentationSettings(mixup_probability=0.7, cutmix_probability=0.5)
    with pytest.raises(TrainingError, match="balanced or target_per_class"):
        SamplingSettings(balanced=True, target_per_class=10)
