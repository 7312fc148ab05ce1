"""``fer fit``."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ferkit.cli.options import (
    cache_dir_option,
    common_options,
    group_split_option,
    models_dir_option,
    say,
    test_size_option,
)


class Layers(click.ParamType):
    """``128,64`` as a tuple of whole numbers."""

    name = "units"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        parts = value.split(",") if isinstance(value, str) else value
        try:
            return tuple(int(part) for part in parts)
        except (TypeError, ValueError):
            self.fail(f"expected units a layer such as 128,64, found {value!r}", param, ctx)


@click.command()
@click.option(
    "--head", type=click.Choice(["mlp", "svm", "logistic", "dummy"]), default="mlp", show_default=True
)
@click.option("--embeddings", help="Folder of embeddings, or the start of its name.  [default: the newest]")
@click.option("--name", help="Name of the model.  [default: that of the head]")
@test_size_option
@group_split_option
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--search",
    type=click.IntRange(1),
    metavar="N",
    help="Try N settings by cross-validation within the training part, and take the best.",
)
@click.option(
    "--jobs", type=click.IntRange(1), default=1, show_default=True, help="Settings tried at a time."
)
@click.option(
    "--calibrate",
    type=click.Choice(["auto", "none", "sigmoid", "isotonic", "temperature"]),
    default="auto",
    show_default=True,
    help="Correct the probabilities on held-out folds.",
)
@click.option(
    "--class-weight",
    type=click.Choice(["balanced", "none"]),
    default="none",
    show_default=True,
    help="'balanced' gives rare classes as much say as frequent ones.",
)
@click.option("--pca", help="Principal components: a number, 'auto' or 'none'.  [default: auto]")
@click.option("-C", "C", type=float, help="Inverse penalty of logistic and svm.")
@click.option("--gamma", help="Kernel width of svm: a number or 'scale'.")
@click.option("--hidden", type=Layers(), help="Units a layer of mlp.  [default: 128,64]")
@click.option("--alpha", type=float, help="Penalty of mlp.")
@click.option("--learning-rate", type=float, help="Of mlp.")
@click.option("--max-epochs", type=click.IntRange(1), help="Of mlp.")
@click.option("--json", "as_json", is_flag=True, help="Print the evaluation as JSON.")
@cache_dir_option
@models_dir_option
@common_options
def fit(cache_dir: Path, models_dir: Path, **options: Any) -> None:
    """Fit a head on embeddings: mlp, svm, logistic or dummy.

    Trains on train/ and measures on test/ where the data have them, or else holds out a fifth: stratified by class,
    and by person where persons are known. The model goes to models/NAME and replaces an earlier one of that name.

    \b
    Examples:
        fer fit --head mlp
        fer fit --head svm --search 20 --name svm-tuned
        fer fit --head logistic --class-weight balanced --embeddings data--arcface
    """
    from ferkit.classifiers.heads import head_settings
    from ferkit.classifiers.search import SearchSettings
    from ferkit.datasets.split import SplitSettings
    from ferkit.embedder.find import find_embeddings
    from ferkit.embedder.store import EmbeddingStore
    from ferkit.evaluation.holdout import fit_held_out, load_labelled, save_fit
    from ferkit.evaluation.report import format_report

    folder = find_embeddings(cache_dir, options["embeddings"])
    store = EmbeddingStore.open(folder)
    say(f"embeddings: {folder}")
    table = load_labelled(store)
    settings = head_settings(options["head"], **_hyper_parameters(options))
    split_settings = SplitSettings(
        test_size=options["test_size"], seed=options["seed"], by_group=options["group_split"]
    )
    n, jobs = options["search"], options["jobs"]
    search = SearchSettings(n_candidates=n, n_jobs=jobs, seed=options["seed"]) if n else None
    fitted = fit_held_out(table, settings, split_settings, search=search)
    for note in fitted.head.notes:
        say(note)
    target = models_dir / (options["name"] or options["head"])
    save_fit(target, fitted, store, table, overwrite=True)
    if options["as_json"]:
        click.echo(json.dumps({"model": str(target), **fitted.evaluation.to_dict()}, ensure_ascii=False))
        return
    split = fitted.split
    how = _how(split, fitted.evaluation.n_groups)
    say(f"trained on {len(split.train)}, measured on {len(split.test)} ({how}), {fitted.head.seconds:.1f} s")
    click.echo(format_report(fitted.evaluation))
    click.echo(f"model: {target}")


def _hyper_parameters(options: dict[str, Any]) -> dict[str, Any]:
    """What was given, in the words of the head's settings: these refuse what a head does not have."""
    values: dict[str, Any] = {
        name: options[name] for name in ("C", "hidden", "alpha", "learning_rate", "max_epochs")
    }
    values["gamma"] = _number_or_word(options["gamma"], float)
    values = {name: value for name, value in values.items() if value is not None}
    if options["pca"] is not None:
        values["pca"] = None if options["pca"] == "none" else _number_or_word(options["pca"], int)
    balanced = options["class_weight"] == "balanced"
    return {**values, "calibration": options["calibrate"], "balanced": balanced, "seed": options["seed"]}


def _number_or_word(text: str | None, number: Callable[[str], float]) -> float | str | None:
    try:
        return None if text is None else number(text)
    except ValueError:
        return text


def _how(split: Any, n_persons: int | None) -> str:
    if split.origin == "given":
        shared = f"; {len(split.shared_groups)} persons are on both sides!" if split.shared_groups else ""
        return f"the data's own test part{shared}"
    if n_persons is None:
        return "drawn; persons are not known, see --person-pattern of fer embed"
    return "drawn, persons kept apart" if split.settings.by_group else "drawn without regard to persons"
