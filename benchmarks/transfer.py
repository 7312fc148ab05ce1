"""What the embeddings of the networks that come along are worth on labels and images that they were not trained on.

    python benchmarks/transfer.py fer2013/ --other mobilefacenet.onnx#stage4

``fer2013/`` holds test/<emotion>/*.png (the official PublicTest, on which nothing was trained) and labels.csv with FER+
votes; nothing else of it is read. ``--other`` names a network of somebody else's to compare with. None of the label
sets is FER2013's own: FER+ majorities, smiles that all voters agree on or not, faces that voters find clear or not,
traces of sadness, valence with surprise, majorities on tinted, turned, loosely cropped copies of 96 pixels, and drawn
faces by expression, mouth and jaw, of persons that the head has not seen. Heads are logistic, with the settings of
``fer fit``, and learn from 10, 20, 40 or all images a class of one half; accuracy is on the other half, the mean of
four draws (two where all are taken). Prints a Markdown table.

``--landmarker`` adds what a person might sort faces by, on the same crops: the upper and lower quarter by how the face
landmarker of MediaPipe scores a pucker, lips, jaw, brows, eyes and gaze. It needs the extra ``mediapipe`` and the file
``face_landmarker.task``, which nothing here was trained with.
"""

import argparse
import csv
from pathlib import Path

import cv2
import numpy as np

from ferkit.classifiers.heads import fit_head, head_settings
from ferkit.core.labels import LabelSet, meaning_of
from ferkit.core.weights import BUNDLED, EDITIONS
from ferkit.datasets.load import load_dataset
from ferkit.datasets.synthetic import EXPRESSIONS, Identity, draw_face, sample_unclear_units, sample_units
from ferkit.embedder.embedders import Embedder, open_embedder
from ferkit.embedder.extract import StoreOptions, embed_dataset
from ferkit.embedder.store import EmbeddingTable
from ferkit.faces.cropping import Cropping

HEADS = {"logistic": {"C": 0.01}, "mlp": {}, "svm": {"exact_rows": 10_000}}
SMALL = 1_000

Results = dict[str, dict[str, dict[str, list[float]]]]


def shipped_table(data: Path, cache: Path) -> EmbeddingTable:
    """Embeddings of the whole of ``data`` by the shipped network."""
    dataset = load_dataset(data)
    store, _ = embed_dataset(dataset, open_embedder("ferkit"), Cropping.ask("none"), StoreOptions(cache))
    return store.load().labelled()


def ferplus_majority(votes: Path) -> dict[str, str]:
    """The class that more than half of the FER+ voters of an image chose; images without one are left out."""
    chosen = {}
    with votes.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            counts = {name: float(row[name] or 0) for name in row if name.startswith("ferplus_")}
            best = max(counts, key=lambda name: counts[name])
            word = meaning_of(best.removeprefix("ferplus_"))
            if sum(counts.values()) >= 5 and 2 * counts[best] > sum(counts.values()):
                chosen[row["path"]] = word
    return {path: word for path, word in chosen.items() if word in LabelSet.named("ferplus").names}


def tasks(table: EmbeddingTable, votes: Path) -> dict[str, np.ndarray]:
    """Labels of all rows in the words of each task; empty where an image has none."""
    seven = table.y.astype(str)
    to_valence = LabelSet.named("fer2013").map_to(LabelSet.named("valence3"))
    valence = np.array([label or "" for label in to_valence.labels(list(seven))])
    majority = ferplus_majority(votes)
    ferplus = np.array([majority.get(path, "") for path in table.paths])
    return {"fer2013": seven, "valence3": valence, "ferplus": ferplus}


def measure(tables: dict[str, EmbeddingTable], votes: Path, draws: int, heads: list[str]) -> Results:
    """Accuracies on PublicTest: task, network, head, one for each draw of training images."""
    results: Results = {}
    for network, table in tables.items():
        for task, y in tasks(table, votes).items():
            train = np.flatnonzero((table.split == "train") & (y != ""))
            test = np.flatnonzero((table.split == "test") & (y != ""))
            for seed in range(draws if task == "ferplus" else 1):
                rows = small_sample(y, train, seed) if task == "ferplus" else train
                for kind in heads:
                    head = fit_head(table.X[rows], y[rows], head_settings(kind, seed=seed, **HEADS[kind]))
                    found = np.array(head.classes)[head.predict_proba(table.X[test]).argmax(axis=1)]
                    accuracy = float((found == y[test]).mean())
                    results.setdefault(task, {}).setdefault(network, {}).setdefault(kind, []).append(accuracy)
                    print(f"{network}, {task}, {kind}: {accuracy:.2%}, {head.seconds:.0f} s", flush=True)
    return results


def small_sample(y: np.ndarray, train: np.ndarray, seed: int) -> np.ndarray:
    """:data:`SMALL` rows drawn from ``train``, of each class its share and at least two."""
    rng = np.random.default_rng(seed)
    rows = []
    for name in np.unique(y[train]):
        of_class = train[y[train] == name]
        rows.append(rng.choice(of_class, max(2, round(SMALL * len(of_class) / len(train))), replace=False))
    return np.concatenate(rows)


def markdown(results: Results) -> str:
    """A table with a row for each task and network."""
    about = {
        "fer2013": "7 classes",
        "valence3": "positive, neutral, negative",
        "ferplus": f"FER+, {SMALL:,} images",
    }
    heads = list(next(iter(next(iter(results.values())).values())))
    lines = ["| labels | features | " + " | ".join(heads) + " |", "|---" * (len(heads) + 2) + "|"]
    for task, networks in results.items():
        for network, figures in networks.items():
            lines.append(
                f"| {about[task]} | {network} | " + " | ".join(shown(figures[head]) for head in heads) + " |"
            )
    return "\n".join(lines)


def shown(accuracies: list[float]) -> str:
    """The mean, and the standard deviation over draws."""
    spread = f" ± {np.std(accuracies, ddof=1):.1%}" if len(accuracies) > 1 else ""
    return f"{np.mean(accuracies):.1%}{spread}"


COUNTS = (10, 20, 40, None)
ALTERED, DRAWN, PERSONS = 1500, 840, 40

Proxy = tuple[str, np.ndarray, np.ndarray]
"""Which images, their rows, and a label for each."""


def altered(gray: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A gray crop of 48 pixels as uint8 RGB of 96: tinted, turned, in a tighter or looser box, in other light."""
    scale, angle = rng.uniform(0.85, 1.3), rng.uniform(-12, 12)
    turn = cv2.getRotationMatrix2D((23.5, 23.5), angle, 2 / scale)
    turn[:, 2] += 24 + rng.uniform(-4, 4, 2)
    large = cv2.warpAffine(gray, turn, (96, 96), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    tint = np.array([1.1, 0.95, 0.8]) * rng.uniform(0.85, 1.15, 3)
    light = 255 * (large.astype(float) / 255) ** rng.uniform(0.6, 1.5)
    rgb = light[..., None] * tint * rng.uniform(0.5, 1.1) + rng.normal(0, 4, (96, 96, 3))
    return np.clip(rgb, 0, 255).astype(np.uint8)


def proxies(data: Path) -> tuple[dict[str, np.ndarray], dict[str, Proxy], np.ndarray]:
    """Images uint8 RGB by set, the label sets, and who is drawn on each drawing."""
    with (data / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["path"].startswith("test/")]
    rows.sort(key=lambda row: row["path"])
    gray = np.stack([cv2.imread(str(data / row["path"]), cv2.IMREAD_GRAYSCALE) for row in rows])
    words = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
    votes = np.array([[float(row[f"ferplus_{word}"] or 0) for word in words] for row in rows])
    votes[:, 1] += [float(row["ferplus_contempt"] or 0) for row in rows]
    total = votes.sum(axis=1)
    a_face = (total > 0) & (np.array([float(row["ferplus_NF"] or 0) for row in rows]) < 5)
    votes /= np.maximum(total, 1)[:, None]
    best, share = votes.argmax(axis=1), votes.max(axis=1)
    clear = a_face & (share > 0.5)
    smiles = np.flatnonzero(a_face & (votes[:, 3] > 0.5))
    copies = np.flatnonzero(clear[:ALTERED])
    rng = np.random.default_rng(7)
    persons = [Identity.random(np.random.default_rng(100 + k)) for k in range(PERSONS)]
    images = {
        "gray": np.repeat(gray[..., None], 3, axis=3),
        "altered": np.stack([altered(image, rng) for image in gray[:ALTERED]]),
    }
    drawn, units, who = [], [], []
    for k in range(DRAWN):
        expression = EXPRESSIONS[k % 7]
        if k % 3 == 0:
            unit = sample_unclear_units(expression, rng)
        else:
            unit = sample_units(expression, rng, rng.uniform(0.5, 1.2))
        who.append(k // 21 % PERSONS)
        units.append(unit)
        drawn.append(draw_face(persons[who[-1]], unit, rng, 96))
    images["drawn"] = np.stack(drawn)
    everyone, faces = np.arange(DRAWN), np.flatnonzero(a_face)
    sets: dict[str, Proxy] = {
        "FER+ majority, 7": ("gray", np.flatnonzero(clear), best[clear]),
        "smile, sure or not, 2": ("gray", smiles, (share[smiles] >= 0.95).astype(int)),
        "clear or not, 2": ("gray", faces, (share[faces] >= 0.8).astype(int)),
        "a trace of sadness, 2": ("gray", faces, (votes[faces, 5] > 0.15).astype(int)),
        "valence and surprise, 4": (
            "gray",
            np.flatnonzero(clear),
            np.array([0, 0, 0, 2, 1, 0, 3])[best[clear]],
        ),
        "altered, FER+ majority, 7": ("altered", copies, best[copies]),
        "drawn, expression, 7": ("drawn", everyone, everyone % 7),
        "drawn, mouth, 3": (
            "drawn",
            everyone,
            np.digitize([unit.mouth_corner for unit in units], [-0.2, 0.2]),
        ),
        "drawn, jaw, 2": ("drawn", everyone, np.array([int(unit.jaw > 0.25) for unit in units])),
    }
    return images, sets, np.array(who)


SIGNS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "pucker": (("mouthPucker",), ()),
    "lips pressed": (("mouthPressLeft", "mouthPressRight"), ()),
    "lips rolled in": (("mouthRollLower", "mouthRollUpper"), ()),
    "jaw open": (("jawOpen",), ()),
    "brows up": (("browInnerUp", "browOuterUpLeft", "browOuterUpRight"), ()),
    "brows down": (("browDownLeft", "browDownRight"), ()),
    "eyes closed": (("eyeBlinkLeft", "eyeBlinkRight"), ()),
    "eyes narrow": (("eyeSquintLeft", "eyeSquintRight"), ()),
    "gaze, left or right": (("eyeLookInLeft", "eyeLookOutRight"), ("eyeLookInRight", "eyeLookOutLeft")),
    "gaze, up or down": (("eyeLookUpLeft", "eyeLookUpRight"), ("eyeLookDownLeft", "eyeLookDownRight")),
}
"""What raises and what lowers a score, by the names of the landmarker's blendshapes."""


def signs(gray: np.ndarray, landmarker: Path, cache: Path) -> dict[str, Proxy]:
    """Label sets of two classes, by the landmarker's scores of crops uint8 RGB (n, 48, 48, 3)."""
    file = cache / "signs.npz"
    if not file.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        scored = _scores(gray, landmarker)
        np.savez(file, rows=[row for row, _ in scored], **_columns([shapes for _, shapes in scored]))
    known = np.load(file)
    found: dict[str, Proxy] = {}
    for about, (more, less) in SIGNS.items():
        score = sum(known[name] for name in more) - sum((known[name] for name in less), np.zeros(()))
        low, high = np.quantile(score, [0.25, 0.75])
        outer = (score <= low) | (score >= high)
        found[f"{about}, 2"] = ("gray", known["rows"][outer], (score[outer] >= high).astype(int))
    return found


def _scores(gray: np.ndarray, landmarker: Path) -> list[tuple[int, dict[str, float]]]:
    import mediapipe as mp

    options = mp.tasks.vision.FaceLandmarkerOptions(
        base_options=mp.tasks.BaseOptions(model_asset_path=str(landmarker)),
        output_face_blendshapes=True,
        min_face_detection_confidence=0.2,
        min_face_presence_confidence=0.2,
    )
    found = []
    with mp.tasks.vision.FaceLandmarker.create_from_options(options) as running:
        for row, crop in enumerate(gray):
            large = cv2.resize(crop, (192, 192), interpolation=cv2.INTER_CUBIC)
            large = cv2.copyMakeBorder(
                large, 64, 64, 64, 64, cv2.BORDER_REFLECT_101
            )  # it looks for whole heads
            said = running.detect(mp.Image(mp.ImageFormat.SRGB, large)).face_blendshapes
            if said:
                found.append((row, {shape.category_name: shape.score for shape in said[0]}))
    return found


def _columns(rows: list[dict[str, float]]) -> dict[str, np.ndarray]:
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def features(
    embedder: Embedder, images: dict[str, np.ndarray], cache: Path, name: str
) -> dict[str, np.ndarray]:
    """float16 (n, dim) of every set, kept in ``cache``."""
    found = {}
    for part, crops in images.items():
        file = cache / f"{name}-{embedder.fingerprint[:8]}-{part}.npy"
        if not file.is_file():
            batches = [embedder.embed(crops[i : i + 32]) for i in range(0, len(crops), 32)]
            cache.mkdir(parents=True, exist_ok=True)
            np.save(file, np.concatenate(batches).astype(np.float16))
        found[part] = np.load(file)
    return found


def accuracies(X: np.ndarray, y: np.ndarray, who: np.ndarray | None) -> list[float]:
    """Mean accuracy for each of :data:`COUNTS`; ``who`` keeps persons on one side."""
    found = []
    names = y.astype(str)
    for count in COUNTS:
        draws = []
        for seed in range(4 if count else 2):
            rng = np.random.default_rng(seed)
            half = (
                rng.random(len(y)) < 0.5
                if who is None
                else np.isin(who, rng.permutation(PERSONS)[: PERSONS // 2])
            )
            rows = np.flatnonzero(half)
            if count:
                rows = np.concatenate([rng.permutation(rows[y[rows] == k])[:count] for k in np.unique(y)])
            head = fit_head(X[rows], names[rows], head_settings("logistic", seed=seed))
            said = np.array(head.classes)[head.predict_proba(X[~half]).argmax(axis=1)]
            draws.append(float((said == names[~half]).mean()))
        found.append(float(np.mean(draws)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--other", help="FILE.onnx#LAYER to compare with")
    parser.add_argument("--landmarker", type=Path, metavar="FILE", help="face_landmarker.task of MediaPipe")
    parser.add_argument("--cache-dir", type=Path, default=Path("cache/transfer"))
    arguments = parser.parse_args()
    networks = {name: open_embedder(name) for name in EDITIONS}
    networks["ferkit, joined"] = open_embedder(BUNDLED, layer="stage2+stage3+stage4+last")
    if arguments.other:
        file, _, layer = arguments.other.partition("#")
        networks[Path(file).stem] = open_embedder(f"onnx:{file}", layer=layer or None)
    images, sets, who = proxies(arguments.data)
    first = list(sets)
    if arguments.landmarker:
        sets |= signs(images["gray"], arguments.landmarker, arguments.cache_dir)
    print("| labels | features | " + " | ".join(str(count or "all") for count in COUNTS) + " |")
    print("|---" * (len(COUNTS) + 2) + "|")
    means: dict[tuple[str, str], list[float]] = {}
    found = {name: features(one, images, arguments.cache_dir, name) for name, one in networks.items()}
    for about, (part, rows, y) in sets.items():
        for name in networks:
            figures = accuracies(
                found[name][part][rows].astype(np.float32), y, who if part == "drawn" else None
            )
            group = "mean of all" if about in first else "mean by the landmarker"
            means.setdefault((group, name), []).append(float(np.mean(figures)))
            print(
                f"| {about} | {name} | " + " | ".join(f"{figure:.1%}" for figure in figures) + " |",
                flush=True,
            )
    for (group, name), figures in means.items():
        print(f"| {group} | {name} | {np.mean(figures):.1%} |" + " |" * (len(COUNTS) - 1))


if __name__ == "__main__":
    main()
