"""The environment: the example file is complete, names of the AI Hub project are understood."""

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from ferkit.cli.main import main
from ferkit.cli.reference import environment_example
from ferkit.cli.train import finetune
from ferkit.core.errors import DataError, TrainingError
from ferkit.core.spellings import read_old_env
from tests.heard import heard

EXAMPLE = Path(__file__).parents[2] / ".env.example"


def test_the_example_file_is_what_the_generator_writes() -> None:
    assert EXAMPLE.read_text(encoding="utf-8") == environment_example(main), (
        "python -m ferkit.cli.reference env > .env.example"
    )


def test_every_variable_of_the_example_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    names = re.findall(r"^#(FER_\w+)=", environment_example(main), re.MULTILINE)
    assert len(names) == len(set(names)) > 300
    result = CliRunner().invoke(main, ["models", "verify", "nothing"], env=dict.fromkeys(names, " "))
    assert "is unknown" not in result.stderr


def test_settings_with_dots_are_read_from_the_environment() -> None:
    context = click.Context(finetune, info_name="finetune", auto_envvar_prefix="FER_FINETUNE")
    target = finetune.find(context, "network_hidden_dropout")
    assert target is not None
    assert target.key == "network.hidden_dropout"


OLD = """\
# settings of the old project
CLASS_NAMES=["기쁨", "당황", "분노", "불안", "슬픔"]
BATCH_SIZE=64
IMG_SIZE=224
HEAD_EPOCHS=6
FT_EPOCHS=42
HEAD_LR=3e-4
FINE_TUNE_LEARNING_RATE=2e-5
P_MIXUP=0.6
CUTMIX_P=0.3
MIXUP_ALPHA=0.2
USE_EMA=true
EMA_DECAY=0.9995
BN_FREEZE_MODE=s3
EARLY_STOPPING_PATIENCE=8
PLATEAU_FACTOR=0.5
UNFREEZE_LAYERS=30
VAL_STEPS=500
LR_DECAY=0.9
DATA_DIR=/data
LOG_LEVEL=
"""


def test_the_names_of_the_ai_hub_project_are_translated_and_each_line_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "old.env"
    path.write_text(OLD, encoding="utf-8")
    with heard() as said:
        found = read_old_env(path)
    assert found == {
        "labels": "기쁨,당황,분노,불안,슬픔", "batch_size": "64", "network.input_size_wh": "[224, 224]",
        "stages.1.epochs": "6", "stages.last.epochs": "42", "stages.1.learning_rate": "3e-4",
        "stages.last.learning_rate": "2e-5", "augmentation.mixup_probability": "0.6",
        "augmentation.cutmix_probability": "0.3", "augmentation.mixup_alpha": "0.2", "optimizer.ema": "0.9995",
        "stages.last.batch_norm": "s3", "stages.last.early_stopping": "8", "stages.last.decay": "0.5",
        "stages.last.unfreeze": "last:30", "validation_steps": "500",
    }  # fmt: skip
    assert len(said) == len(OLD.splitlines()) - 1
    assert f"{path}: P_MIXUP=0.6 is now augmentation.mixup_probability=0.6" in said
    assert f"{path}: LR_DECAY is left out: it has no counterpart" in said
    assert any("DATA_DIR is left out: name the folders on the command line" in line for line in said)
    with pytest.raises(DataError, match="cannot be read"):
        read_old_env(tmp_path / "absent.env")


def test_an_old_file_is_taken_by_finetune_below_what_the_command_line_says(tmp_path: Path) -> None:
    (tmp_path / "old.env").write_text("BATCH_SIZE=0\nP_MIXUP=0.5\n", encoding="utf-8")
    arguments = ["absent", "--env-file", str(tmp_path / "old.env")]
    result = CliRunner().invoke(finetune, arguments)
    assert isinstance(result.exception, TrainingError)
    assert "batch_size between 1" in str(result.exception)
    result = CliRunner().invoke(finetune, [*arguments, "--batch-size", "8"])
    assert isinstance(result.exception, DataError)  # the recipe is right, the data are not there
