import numpy as np
import pytest

from ferkit.datasets.split import assign_groups

SHARES = (0.8, 0.1, 0.1)


def drawn(n: int, n_persons: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    strata = rng.choice(5, n, p=[0.5, 0.3, 0.1, 0.08, 0.02])
    return strata, rng.integers(0, n_persons, n)


def shares_of(strata: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Share of every part in every stratum, (parts, strata)."""
    counts = np.array([np.bincount(strata[part == i], minlength=5) for i in range(3)])
    return counts / counts.sum(axis=0)


@pytest.mark.parametrize("n_persons", [300, 3_000, 60_000])
def test_every_part_gets_its_share_of_every_stratum_and_persons_stay_whole(n_persons: int):
    strata, persons = drawn(30_000, n_persons)
    part = assign_groups(strata, persons, SHARES, 0)
    assert len(np.unique(np.stack([persons, part]), axis=1).T) == len(np.unique(persons))
    # A person of the smallest runs has 100 images, two of them of the rarest class.
    assert np.abs(shares_of(strata, part) - np.array(SHARES)[:, None]).max() < 0.02


def test_free_rows_are_dealt_exactly():
    strata = np.repeat([0, 1, 2], [100, 33, 7])
    part = assign_groups(strata, np.full(140, -1), SHARES, 0)
    assert np.bincount(part).tolist() == [112, 14, 14]
    assert np.bincount(part[strata == 0]).tolist() == [80, 10, 10]
    assert np.abs(np.bincount(part[strata == 2], minlength=3) - [5.6, 0.7, 0.7]).max() < 1.5


def test_persons_of_very_different_sizes_are_balanced():
    sizes = np.array([2000, 1000, 500, 250, *[20] * 200])
    persons = np.repeat(np.arange(len(sizes)), sizes)
    part = assign_groups(np.zeros(len(persons), int), persons, SHARES, 1)
    assert np.bincount(part) / len(persons) == pytest.approx(SHARES, abs=0.01)


def test_the_seed_decides_alone():
    strata, persons = drawn(5_000, 700)
    one, again, other = (assign_groups(strata, persons, SHARES, seed) for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_many_rows_and_persons_have_their_shares():
    strata, persons = drawn(200_000, 16_000)
    part = assign_groups(strata, persons, SHARES, 0)
    assert np.bincount(part) / len(persons) == pytest.approx(SHARES, abs=0.001)
