from importlib import resources
from pathlib import Path

import pytest

from ferkit.classifiers.finetune.recipe import (
    AugmentationSettings,
    RecipeSettings,
    SamplingSettings,
    from_mapping,
    load_recipe,
    parse_change,
    recipe_names,
    recipe_values,
)
from ferkit.core.errors import TrainingError

RECIPES = resources.files("ferkit.classifiers.finetune.recipes")


def test_all_recipes_can_be_read() -> None:
    assert set(recipe_names()) >= {"teasing", "aihub", "interview", "vgg-transfer", "quick"}
    for name in recipe_names():
        assert load_recipe(name).stages


def test_recipes_named_after_projects_have_their_values() -> None:
    teasing, aihub, interview, vgg = map(load_recipe, ("teasing", "aihub", "interview", "vgg-transfer"))
    n = teasing.network
    assert (n.backbone, n.weights, n.input_size_wh, n.output) == (
        "efficientnet-b0",
        "imagenet",
        (224, 224),
        "sigmoid",
    )
    assert (n.pooling, n.hidden, n.dropout, teasing.batch_size) == ("average", 0, 0.3, 32)
    head, last = teasing.stages
    assert (head.unfreeze, head.learning_rate, last.unfreeze, last.learning_rate) == (
        "none",
        1e-3,
        "last:3",
        1e-4,
    )
    assert head.epochs + last.epochs == 57
    assert teasing.monitor == aihub.monitor == "val_loss"
    assert {stage.schedule for stage in teasing.stages} == {"plateau"}
    assert all(stage.early_stopping for stage in teasing.stages)
    assert teasing.sampling.target_per_class == 250
    assert teasing.loss.class_weights == {"0": 1.0, "1": 2.0}
    a = teasing.augmentation
    assert (a.flip, a.brightness, a.contrast, a.hsv_shift) == (True, 0.1, 0.1, (5.0, 10.0, 10.0))
    assert (a.noise_variance, a.shift, a.rotate, a.zoom) == ((10.0, 50.0), 0, 0, 0)
    half = dict.fromkeys(("flip", "brightness", "contrast", "hsv_shift"), 0.5)
    assert a.probability == {**half, "noise_variance": 0.3}

    n = aihub.network
    assert (n.backbone, n.weights, n.input_size_wh) == ("mobilenet-v3-large", "imagenet", (224, 224))
    assert (n.hidden, n.hidden_dropout, n.dropout, n.output) == (256, 0.0, 0.25, "softmax")
    head, upper = aihub.stages
    assert (head.epochs, head.learning_rate, head.unfreeze, head.mix) == (6, 3e-4, "none", True)
    assert (upper.epochs, upper.learning_rate, upper.batch_norm, upper.mix) == (42, 2e-5, "all", False)
    assert (upper.early_stopping, upper.schedule, upper.plateau_patience, upper.decay) == (
        8,
        "plateau",
        3,
        0.5,
    )
    a = aihub.augmentation
    assert (a.mixup_alpha, a.mixup_probability, a.cutmix_alpha, a.cutmix_probability) == (0.2, 0.7, 0.2, 0.3)
    assert (aihub.batch_size, aihub.loss.l2, aihub.optimizer.ema, aihub.validation_steps) == (
        32,
        1e-5,
        0.999,
        500,
    )

    light, strong = interview.stages
    assert interview.network.backbone == "efficientnet-b0"
    assert (light.epochs, light.unfreeze, strong.epochs, strong.unfreeze) == (10, "none", 50, "all")
    assert light.augment_strength < strong.augment_strength == 1
    assert strong.schedule == "exponential"
    cnn = load_recipe("interview-cnn")
    assert (cnn.network.pooling, cnn.network.hidden > 0, cnn.optimizer.name) == ("flatten", True, "adam")
    assert (vgg.network.backbone, vgg.network.input_size_wh, vgg.network.color) == (
        "vgg48",
        (224, 224),
        "gray",
    )
    assert {r.optimizer.name for r in (teasing, aihub, interview, vgg)} == {"adam"}


def test_each_of_them_says_where_ours_advises_otherwise() -> None:
    for name in ("teasing", "aihub", "interview", "vgg-transfer"):
        texts = [
            RECIPES.joinpath(f"{name}{kind}.toml").read_text(encoding="utf-8") for kind in ("", "-better")
        ]
        assert f"{name}-better" in texts[0]
        assert f"the aim of {name}.toml. What differs, and why" in texts[1]


def test_a_change_may_have_a_probability(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[augmentation]\nflip = {p = 0.2}\nshift = 0.3\nzoom = {amount = 0.2, p = 0.1}\n")
    found = load_recipe(str(path), {"augmentation.shift.p": 0.4, "augmentation.flip.p": 0.7}).augmentation
    assert (found.flip, found.shift, found.zoom) == (True, 0.3, 0.2)
    assert found.probability == {"flip": 0.7, "shift": 0.4, "zoom": 0.1}
    assert from_mapping(RecipeSettings, recipe_values(load_recipe(str(path)))) == load_recipe(str(path))
    for change, message in (
        ({"augmentation.flip": {"often": 1}}, "expected amount and p in augmentation.flip, found often"),
        ({"augmentation.erase": {"amount": 0.1, "p": 0.1}}, "'erase'"),
        ({"augmentation.zoom.p": 2.0}, "augmentation.zoom.p between 0 and 1"),
    ):
        with pytest.raises(TrainingError, match=message):
            load_recipe("quick", change)


def test_what_came_after_0_1_is_left_out_where_it_is_not_used() -> None:
    values = recipe_values(load_recipe("quick"))
    assert not {"validation_steps"} & values.keys()
    assert not {"pooling", "hidden_dropout"} & values["network"].keys()
    assert not {"probability", "noise_variance", "hsv_shift"} & values["augmentation"].keys()
    assert recipe_values(load_recipe("ferkit"))["monitor"] == "accuracy"
    assert values["loss"]["class_weights"] is False


def test_stages_count_from_1_in_files_without_stages_and_in_messages_too(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("batch_size = 8\n")
    assert load_recipe(str(tmp_path / "mine.toml"), {"stages.1.epochs": 3}).stages[0].epochs == 3
    with pytest.raises(TrainingError, match=r"unknown setting stages\.2\.rate"):
        load_recipe("aihub", {"stages.last.rate": 1})


def test_hangul_without_quotes_gets_a_hint(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        "[loss.class_weights]\n비약올리기 = 1\n약올리기 = 2\n", encoding="utf-8"
    )
    with pytest.raises(
        TrainingError, match='line 2: put names in quotes that are not plain letters: "비약올리기" = 1'
    ):
        load_recipe(str(tmp_path / "mine.toml"))
    (tmp_path / "mine.toml").write_text('[loss.class_weights]\n"비약올리기" = 1\n', encoding="utf-8")
    assert load_recipe(str(tmp_path / "mine.toml")).loss.class_weights == {"비약올리기": 1.0}


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
        ("monitor=loss", "macro_f1, val_accuracy, val_loss"),
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
