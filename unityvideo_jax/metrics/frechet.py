"""Fréchet distance between two sets of feature vectors, as in FID (arXiv 1706.08500) and FVD.

|mu1 - mu2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2)), with sample covariances (divisor n - 1). The trace of
the root is the sum of the singular values of A1^T A2 for any A_i A_i^T = S_i, so no matrix root is
taken, nothing becomes complex, and fewer videos than dimensions are no special case.
"""

import numpy as np
from jaxtyping import Float


def frechet_distance(
    first: Float[np.ndarray, "n d"], second: Float[np.ndarray, "m d"]
) -> float | None:
    """Returns the distance, >= 0; None with fewer than two vectors in a set.

    Args:
      first, second: a feature vector per row.
    """
    if min(len(first), len(second)) < 2:
        return None
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    gap = first.mean(axis=0) - second.mean(axis=0)
    roots = [(x - x.mean(axis=0)).T / np.sqrt(len(x) - 1) for x in (first, second)]
    spread = sum(np.square(root).sum() for root in roots)
    shared = np.linalg.svd(roots[0].T @ roots[1], compute_uv=False).sum()
    return float(max(gap @ gap + spread - 2.0 * shared, 0.0))
