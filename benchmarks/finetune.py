"""How fast fine-tuning is: the training loop against its network alone, and ONNX against Keras.

    python benchmarks/finetune.py loop        # images/s of fer finetune, and of one batch held in memory
    python benchmarks/finetune.py predict     # images/s of ONNX Runtime and Keras at batch 1 and 32
    python benchmarks/finetune.py networks    # images/s of training of the small networks
    python benchmarks/finetune.py transfer DATA --weights models/fer2013/network.keras
                                              # 200 images of another label set: from scratch, from weights

Both sides of a comparison run in turns, so that whatever else the machine does meets both.
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np


def loop(recipe_name: str, n_images: int, rounds: int) -> None:
    """Images a second of an epoch of the real loop, and of the bare network on one constant batch.

    The bare network has the same loss and optimizer, but no augmentation, no order, no reading, no
    callbacks: what the machine can do at best. The loop's time is that of training; validation and
    checkpoints come on top.
    """
    import keras

    from ferkit.classifiers.finetune import training as callbacks
    from ferkit.classifiers.finetune.batches import TrainingBatches
    from ferkit.classifiers.finetune.networks import build_core, input_shape
    from ferkit.classifiers.finetune.recipe import load_recipe
    from ferkit.classifiers.finetune.training import LossModel, TrainingData, loss_of_stage, optimizer_of

    recipe = load_recipe(recipe_name, {"network.weights": "none"})
    height, width, channels = input_shape(recipe.network)
    channels = 1 if recipe.network.color == "gray" else 3
    data = _random_data(n_images, (height, width), channels)
    targets = np.eye(7, dtype=np.float32)[data.y]
    batch = recipe.batch_size

    core = build_core(recipe.network, 7, recipe.precision)
    stage = len(recipe.stages)
    with tempfile.TemporaryDirectory() as folder:
        run = callbacks.Run(Path(folder), recipe, {}, stage=stage)
        batches = TrainingBatches(data.images, targets, data.y, recipe.sampling, batch, recipe.seed)
        objective = loss_of_stage(core, recipe, TrainingData(data, targets, data), stage)
        start = callbacks.EpochStart(run, batches)

        bare_core = build_core(recipe.network, 7, recipe.precision)
        bare = LossModel(bare_core, None, dataclasses.replace(recipe.loss, class_weights=False), None)
        bare.compile(optimizer=optimizer_of(recipe.optimizer, 1e-3))
        bare.build(None)
        constant = {"images": data.images[:batch].astype(np.float32), "targets": targets[:batch]}
        constant = {name: keras.ops.convert_to_tensor(value) for name, value in constant.items()}
        step = _compiled_step(bare)

        def train_epoch() -> float:
            timer = _epoch_timer()
            objective.fit(
                batches, epochs=1, verbose=0, shuffle=False, callbacks=[start, callbacks.NanStop(run), timer]
            )
            return len(batches) * batch / timer.seconds

        def bare_epoch() -> float:
            began = time.perf_counter()
            for _ in range(len(batches)):
                step(constant)
            return len(batches) * batch / (time.perf_counter() - began)

        train_epoch(), bare_epoch()  # compile
        pairs = [(train_epoch(), bare_epoch()) for _ in range(rounds)]
    ours, best = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    print(
        f"{recipe_name} ({recipe.network.backbone}, {width}x{height}, batches of {batch}), {rounds} rounds of both"
    )
    print(f"  one constant batch   {best:8.0f} images/s")
    print(f"  the training loop    {ours:8.0f} images/s   {ratio:.1%}")


def predict(backbones: list[str], seconds: float) -> None:
    """Images a second of ONNX Runtime and of Keras for the exported network."""
    from ferkit.classifiers.finetune.export import to_onnx
    from ferkit.classifiers.finetune.networks import build_core, whole_network
    from ferkit.classifiers.finetune.recipe import NetworkSettings
    from ferkit.classifiers.kinds import NetworkClassifier
    from ferkit.core.labels import LabelSet

    print(f"{'network':22}{'batch':>6}{'ONNX':>9}{'Keras':>9}   images/s")
    for name in backbones:
        settings = NetworkSettings(
            backbone=name, color="gray" if name in ("small_resnet", "vgg48") else "rgb"
        )
        network = whole_network(build_core(settings, 7), settings, 7)
        classifier = NetworkClassifier(to_onnx(network), LabelSet.named("fer2013"))
        width, height = classifier.input_size_wh
        for batch in (1, 32):
            crops = np.random.default_rng(0).integers(0, 256, (batch, height, width, 3)).astype(np.uint8)
            ours = _rate(partial(classifier.predict_proba, crops), batch, seconds)
            keras_rate = _rate(partial(network.predict_on_batch, crops.astype(np.float32)), batch, seconds)
            print(f"{name:22}{batch:6}{ours:9.0f}{keras_rate:9.0f}", flush=True)


def networks(seconds: float, batch: int) -> None:
    """Images a second of training of the networks for 48x48 gray faces."""
    from ferkit.classifiers.finetune.networks import build_core
    from ferkit.classifiers.finetune.recipe import LossSettings, NetworkSettings, OptimizerSettings
    from ferkit.classifiers.finetune.training import LossModel, optimizer_of

    for name in ("baseline_cnn", "small_resnet", "vgg48"):
        core = build_core(NetworkSettings(backbone=name), 7)
        objective = LossModel(core, None, LossSettings(), None)
        objective.compile(optimizer=optimizer_of(OptimizerSettings(), 1e-3))
        objective.build(None)
        step = _compiled_step(objective)
        data = _random_data(batch, (48, 48), 1)
        constant = {"images": data.images.astype(np.float32), "targets": np.eye(7, dtype=np.float32)[data.y]}
        rate = _rate(partial(step, constant), batch, seconds)
        print(f"{name:10}{core.count_params():10,} weights {rate:8.0f} images/s", flush=True)


def transfer(data: Path, weights: Path, n_images: int, seeds: int, epochs: int) -> None:
    """Accuracy after training on a few images of another label set, from scratch and from weights.

    The weights have seen DATA's train part, so the few images are drawn from a random half of its test part, and the
    other half measures.
    """
    from ferkit.classifiers.finetune.recipe import RunOptions, load_recipe
    from ferkit.classifiers.finetune.run import finetune
    from ferkit.core.labels import LabelSet
    from ferkit.datasets.load import load_dataset
    from ferkit.faces.cropping import Cropping

    dataset = load_dataset(data)
    target = LabelSet.named("valence3")
    to_valence = LabelSet.from_names(dataset.class_counts()).map_to(target)
    names = dict(zip(to_valence.source.names, to_valence.index, strict=True))
    samples = [
        dataclasses.replace(s, label=target.names[names[s.label]])
        for s in dataset.samples
        if s.label and names[s.label] >= 0
    ]
    results: dict[str, list[float]] = {"from scratch": [], "from weights": []}
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        unseen = [s for s in samples if s.split == "test"]
        order = rng.permutation(len(unseen))
        few = [dataclasses.replace(unseen[i], split="train") for i in order[:n_images]]
        subset = dataset.subset(few + [unseen[i] for i in order[len(order) // 2 :]])
        for way in results:
            scratch = way == "from scratch"
            stages = [
                {"epochs": 0 if scratch else epochs // 3, "learning_rate": 2e-3, "unfreeze": "none"},
                {"epochs": epochs, "learning_rate": 2e-3 if scratch else 3e-4, "warmup_epochs": 2},
            ]
            changes = {"network.weights": "none" if scratch else str(weights), "seed": seed, "batch_size": 32}
            recipe = load_recipe("quick", {**changes, "stages": stages})
            with tempfile.TemporaryDirectory() as folder:
                artifact = finetune(
                    subset,
                    recipe,
                    Cropping.ask("none"),
                    RunOptions(model=Path(folder) / "m", work=Path(folder) / "w", validate_on="test"),
                )
            results[way].append(artifact.record.metrics["validation"]["accuracy"])
            print(f"seed {seed}, {way}: {results[way][-1]:.1%}", flush=True)
    for way, found in results.items():
        print(f"{way:14} {statistics.mean(found):.1%} ± {statistics.stdev(found):.1%}")


def _epoch_timer() -> Any:
    import keras

    class EpochTimer(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
            self._began = time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: object = None) -> None:
            self.seconds = time.perf_counter() - self._began

    return EpochTimer()


def _compiled_step(objective: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda batch: objective.train_on_batch(batch)


def _random_data(n: int, size_hw: tuple[int, int], channels: int) -> Any:
    from ferkit.classifiers.finetune.data import Pixels

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, *size_hw, channels)).astype(np.uint8)
    return Pixels(images, rng.integers(0, 7, n), tuple(map(str, range(n))))


def _rate(work: Callable[[], object], batch: int, seconds: float) -> float:
    work(), work()
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return batch / statistics.median(times)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("loop")
    one.add_argument("--recipe", default="fer2013")
    one.add_argument("--images", type=int, default=4096)
    one.add_argument("--rounds", type=int, default=7)
    two = commands.add_parser("predict")
    two.add_argument(
        "--backbones", nargs="+", default=["small_resnet", "vgg48", "mobilenet-v3-large", "efficientnet-b0"]
    )
    two.add_argument("--seconds", type=float, default=3.0)
    three = commands.add_parser("networks")
    three.add_argument("--seconds", type=float, default=5.0)
    three.add_argument("--batch", type=int, default=128)
    four = commands.add_parser("transfer")
    four.add_argument("data", type=Path)
    four.add_argument("--weights", type=Path, required=True)
    four.add_argument("--images", type=int, default=200)
    four.add_argument("--seeds", type=int, default=5)
    four.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args()
    if options.command == "loop":
        loop(options.recipe, options.images, options.rounds)
    elif options.command == "predict":
        predict(options.backbones, options.seconds)
    elif options.command == "networks":
        networks(options.seconds, options.batch)
    else:
        transfer(options.data, options.weights, options.images, options.seeds, options.epochs)


if __name__ == "__main__":
    main()
