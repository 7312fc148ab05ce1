"""How long a head takes to fit, and how much memory, on as many rows as the largest data sets have.

Synthetic embeddings with the overlap of real ones: classes are small shifts in a cloud of correlated
dimensions.

    python benchmarks/heads.py mlp                       # 350,000 rows of 512 dimensions
    python benchmarks/heads.py svm --rows 28709 --dim 128
    python benchmarks/heads.py logistic --dim 6272       # a tap: half precision, reduced by PCA
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from ferkit.classifiers.heads import HEADS, fit_head, head_settings
from ferkit.core.labels import LabelSet
from ferkit.evaluation.metrics import evaluate

N_TEST = 20_000


def synthetic(path: Path, n: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings (n, d), memory-mapped at ``path``, float16 above 2,000 dimensions; class numbers (n,)."""
    rng = np.random.default_rng(seed)
    k, latent = 7, min(d, 96)
    mixing = rng.normal(size=(latent, d)).astype(np.float32) / np.sqrt(latent)
    centres = rng.normal(
        0, 0.28, (k, 3, latent)
    )  # three ways to show each expression: not linearly separable
    y = rng.choice(k, n, p=[0.14, 0.02, 0.14, 0.25, 0.17, 0.17, 0.11])
    X = np.lib.format.open_memmap(path, "w+", np.float16 if d > 2_000 else np.float32, (n, d))
    for start in range(0, n, 10_000):
        rows = slice(start, min(start + 10_000, n))
        m = rows.stop - start
        hidden = centres[y[rows], rng.integers(3, size=m)] + rng.normal(size=(m, latent))
        X[rows] = hidden.astype(np.float32) @ mixing + 0.3 * rng.normal(size=(m, d)).astype(np.float32)
    X.flush()
    return np.load(path, mmap_mode="r"), y


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("head", choices=HEADS)
    parser.add_argument("--rows", type=int, default=350_000)
    parser.add_argument("--dim", type=int, default=512)
    arguments = parser.parse_args()
    names = LabelSet.named("fer2013")
    with tempfile.TemporaryDirectory() as folder:
        X, numbers = synthetic(Path(folder) / "X.npy", arguments.rows + N_TEST, arguments.dim)
        y = np.array(names.names)[numbers]
        busy = time.process_time()
        head = fit_head(X[N_TEST:], y[N_TEST:], head_settings(arguments.head))
        busy = time.process_time() - busy
        found = evaluate(y[:N_TEST], head.predict_proba(X[:N_TEST]), names, n_resamples=100)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{arguments.head}: {arguments.rows:,} rows x {arguments.dim} dimensions")
    print(f"  {head.seconds:.0f} s, of all cores together {busy:.0f} s")
    print(f"  peak memory {peak:.1f} GiB, the mapped file included")
    print(f"  accuracy {found.figures['accuracy'].value:.1%} on {N_TEST:,} other rows")
    for note in head.notes:
        print(f"  {note}")


if __name__ == "__main__":
    main()
