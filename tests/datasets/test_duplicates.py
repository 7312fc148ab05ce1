from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from ferkit.core.errors import DataError
from ferkit.datasets import duplicates
from ferkit.datasets import duplicates as candidates
from ferkit.datasets.duplicates import (
    N_VARIANTS,
    Copies,
    CopySettings,
    find_candidates,
    find_copies,
    similarity_of,
    variant_warp,
)
from ferkit.datasets.image_stats import SIDE, ImageStats, image_stats
from ferkit.datasets.load import load_dataset


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    coded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE)


def cropped(image: np.ndarray, share: float, x: float, y: float) -> np.ndarray:
    side = len(image)
    kept = round(side * (1 - share))
    top, left = round((side - kept) * y), round((side - kept) * x)
    return cv2.resize(image[top : top + kept, left : left + kept], (side, side))


def turned(image: np.ndarray, degrees: float) -> np.ndarray:
    middle = (len(image) - 1) / 2
    turn = cv2.getRotationMatrix2D((middle, middle), degrees, 1)
    return cv2.warpAffine(image, turn, image.shape[::-1], borderMode=cv2.BORDER_REPLICATE)


def brightened(image: np.ndarray, by: float) -> np.ndarray:
    return np.clip(np.rint(image * (1 + by)), 0, 255).astype(np.uint8)


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "jpeg": lambda p: jpeg(p, 30),
    "cropped": lambda p: cropped(p, 0.15, 0, 1),
    "mirrored": lambda p: p[:, ::-1],
    "brighter": lambda p: brightened(p, 0.3),
    "darker": lambda p: brightened(p, -0.3),
    "turned": lambda p: turned(p, 5),
    "smaller": lambda p: cv2.resize(p, (48, 48), interpolation=cv2.INTER_AREA),
    "all": lambda p: jpeg(brightened(cropped(p, 0.08, 1, 0)[:, ::-1], -0.2), 60),
}
"""What people and programs do to images before they turn up again."""


def image(seed: int, side: int = 64) -> np.ndarray:
    """An image of its own, with structure at every scale."""
    rng = np.random.default_rng(seed)
    layers = [
        cv2.resize(rng.normal(0, 30, (k, k)), (side, side), interpolation=cv2.INTER_CUBIC) for k in (3, 6, 12)
    ]
    return np.clip(sum(layers) + 128 + rng.normal(0, 4, (side, side)), 0, 255).astype(np.uint8)


def look(folder: Path, images: list[np.ndarray], cache_dir: Path | None = None) -> ImageStats:
    folder.mkdir(exist_ok=True)
    for i, one in enumerate(images):
        cv2.imwrite(str(folder / f"{i:03d}.png"), one)
    return image_stats(load_dataset(folder), cache_dir)


def pairs(copies: Copies) -> set[tuple[int, int]]:
    return {(int(a), int(b)) for a, b in copies.near}


@pytest.mark.parametrize("change", CHANGES)
def test_copies_are_found_however_they_were_changed(change: str, tmp_path: Path):
    originals = [image(i) for i in range(40)]
    changed = [np.ascontiguousarray(CHANGES[change](original)) for original in originals[:20]]
    copies = find_copies(look(tmp_path, originals + changed), CopySettings())
    assert copies.first.tolist() == list(range(60))
    assert pairs(copies) == {(i, 40 + i) for i in range(20)}
    assert copies.similarity.min() >= 0.85


def test_two_images_are_enough(tmp_path: Path):
    copies = find_copies(look(tmp_path, [image(0), jpeg(image(0), 50)]), CopySettings())
    assert pairs(copies) == {(0, 1)}


def test_exact_copies_are_no_near_ones(tmp_path: Path):
    seen = look(tmp_path, [image(0), image(1), image(0), jpeg(image(1), 40), image(1)])
    copies = find_copies(seen, CopySettings())
    assert copies.first.tolist() == [0, 1, 0, 3, 1]
    assert pairs(copies) == {(1, 3)}
    assert copies.groups().tolist() == [0, 1, 0, 1, 1]


def test_blank_images_are_no_copies_of_one_another(tmp_path: Path):
    blank = [np.full((64, 64), level, np.uint8) for level in (0, 90, 91, 255)]
    assert pairs(find_copies(look(tmp_path, blank), CopySettings())) == set()


def test_only_pairs_across_are_looked_for_where_sides_are_given(tmp_path: Path):
    seen = look(tmp_path, [image(0), jpeg(image(0), 50), image(1), jpeg(image(0), 40)])
    side = np.array([False, False, False, True])
    assert pairs(find_copies(seen, CopySettings(), side=side)) == {(0, 3), (1, 3)}


def test_colour_and_size_do_not_matter_and_unreadable_images_are_left_out(tmp_path: Path):
    colour = cv2.applyColorMap(image(3, 96), cv2.COLORMAP_BONE)
    (tmp_path / "2.png").write_bytes(b"no image")
    cv2.imwrite(str(tmp_path / "0.png"), colour)
    cv2.imwrite(str(tmp_path / "1.jpg"), cv2.resize(colour, (60, 60)))
    seen = image_stats(load_dataset(tmp_path))
    assert list(seen.errors) == [2]
    assert seen.size_wh.tolist() == [[96, 96], [60, 60], [0, 0]]
    assert pairs(find_copies(seen, CopySettings())) == {(0, 1)}


def test_what_was_found_is_kept_until_a_image_changes(tmp_path: Path):
    cache, folder = tmp_path / "cache", tmp_path / "data"
    seen = look(folder, [image(0), jpeg(image(0), 50), image(1)], cache)
    find_copies(seen, CopySettings(), cache_dir=cache)
    [kept] = (cache / "copies").iterdir()
    with np.load(kept) as arrays:
        assert arrays["near"].tolist() == [[0, 1]]
    # What is in the cache is believed: this is how one knows that it was read.
    np.savez(kept, near=np.array([[0, 2]]), likeness=np.array([0.9], np.float32))
    again = find_copies(look(folder, []), CopySettings(), cache_dir=cache)
    assert pairs(again) == {(0, 2)}
    cv2.imwrite(str(folder / "002.png"), jpeg(image(0), 70))
    fresh = image_stats(load_dataset(folder), cache)
    assert pairs(find_copies(fresh, CopySettings(), cache_dir=cache)) == {
        (0, 1),
        (0, 2),
        (1, 2),
    }


def test_images_of_other_colors_are_no_copies_and_gray_copies_are(tmp_path: Path):
    gray = image(3).astype(np.float32)[..., None]
    hue = np.linspace(-40, 40, 64, dtype=np.float32)[:, None]
    warm = np.concatenate([gray - 45 - hue[None], gray, gray + 45 + hue[None]], axis=2)
    cold = warm[:, :, ::-1]
    shots = [np.clip(shot, 0, 255).astype(np.uint8) for shot in (warm, cold)]
    pale = cv2.addWeighted(
        shots[0], 0.5, cv2.cvtColor(cv2.cvtColor(shots[0], cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR), 0.5, 0
    )
    whole_gray = cv2.cvtColor(shots[0], cv2.COLOR_BGR2GRAY)
    found = find_copies(look(tmp_path, [*shots, pale, whole_gray]), CopySettings())
    assert pairs(found) == {(0, 2), (0, 3), (2, 3), (1, 3)}


def test_an_interrupted_search_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cache, folder = tmp_path / "cache", tmp_path / "data"
    seen = look(folder, [image(i) for i in range(12)] + [jpeg(image(i), 50) for i in range(12)], cache)
    monkeypatch.setattr(candidates, "_PART_ROWS", 10)
    monkeypatch.setattr(duplicates, "_PART_PAIRS", 5)
    compared: list[int] = []

    def stops(a: np.ndarray, b: np.ndarray, variant: int, colors: tuple[np.ndarray, np.ndarray]) -> float:
        if len(compared) == 7:
            raise KeyboardInterrupt
        compared.append(variant)
        return similarity_of(a, b, variant, colors)

    monkeypatch.setattr(duplicates, "similarity_of", stops)
    with pytest.raises(KeyboardInterrupt):
        find_copies(seen, CopySettings(), cache_dir=cache, workers=1)
    parts = {path.name for path in (cache / "copies").rglob("*.npz")}
    assert parts == {*(f"partners-0-{start:09d}.npz" for start in (0, 10, 20)), "likeness-000000000.npz"}
    done = len(compared)
    compared.clear()
    monkeypatch.setattr(duplicates, "similarity_of", lambda *pair: compared.append(0) or similarity_of(*pair))
    copies = find_copies(seen, CopySettings(), cache_dir=cache, workers=1)
    assert pairs(copies) == {(i, i + 12) for i in range(12)}
    assert done == 7
    again = len(compared)
    compared.clear()
    assert pairs(find_copies(seen, CopySettings(), workers=1)) == pairs(copies)
    assert again == len(compared) - 5  # one part was there already
    assert [path.suffix for path in (cache / "copies").iterdir()] == [".npz"]


def test_a_damaged_cache_is_made_anew(tmp_path: Path):
    cache, folder = tmp_path / "cache", tmp_path / "data"
    before = look(folder, [image(0), jpeg(image(0), 50)], cache)
    find_copies(before, CopySettings(), cache_dir=cache)
    for file in cache.rglob("*.npz"):
        file.write_bytes(file.read_bytes()[:100])
    seen = image_stats(load_dataset(folder), cache)
    np.testing.assert_array_equal(seen.thumbs, before.thumbs)
    assert pairs(find_copies(seen, CopySettings(), cache_dir=cache)) == {(0, 1)}


def test_a_descriptor_of_a_variant_is_that_of_the_warped_image():
    thumbs = np.stack([image(i, SIDE) for i in range(3)])
    for variant in range(N_VARIANTS):
        mirrored, warp = variant_warp(variant)
        how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        warped = [
            cv2.warpAffine(
                np.ascontiguousarray(one[:, ::-1] if mirrored else one), warp, (SIDE, SIDE), flags=how,
                borderMode=cv2.BORDER_REPLICATE,
            )
            for one in thumbs
        ]  # fmt: skip
        found = find_candidates(np.concatenate([thumbs, warped]), np.arange(6) > 2, 0.5, 1)
        best = {
            (int(a), int(b)): float(s) for a, b, s in zip(found.a, found.b, found.similarity, strict=True)
        }
        for i in range(3):
            assert max(best.get((i, i + 3), 0), best.get((i + 3, i), 0)) > 0.99


def test_a_threshold_out_of_range_is_refused():
    with pytest.raises(DataError, match="threshold"):
        CopySettings(threshold=85)
