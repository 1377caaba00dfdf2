"""An independent tracer in float64 NumPy: every root of every surface, the smallest that holds."""

import numpy as np

BOX, BALL, CYLINDER = range(3)
FAR = 200.0


def _quadratic(a, b, c):
    """Both real roots of a t² + 2 b t + c, +inf where there are none."""
    inside = b * b - a * c
    root = np.sqrt(np.maximum(inside, 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        pair = np.stack([(-b - root) / a, (-b + root) / a])
    return np.where((inside > 0) & np.isfinite(pair), pair, np.inf)


def _valid(roots, good):
    roots = np.where(good & (roots > 1e-4), roots, np.inf)
    return roots.min(axis=0)


def _at(o, d, t):
    return o + np.where(np.isfinite(t), t, 0.0)[..., None] * d


def _capsule(o, d, half):
    side = _quadratic(
        (d[:, :2] ** 2).sum(-1), (o[:, :2] * d[:, :2]).sum(-1), (o[:, :2] ** 2).sum(-1) - 1
    )
    best = _valid(side, np.abs(_at(o, d, side)[..., 2]) <= half)
    for end in (-half, half):
        centred = o - np.asarray([0.0, 0.0, end])
        cap = _quadratic((d**2).sum(-1), (centred * d).sum(-1), (centred**2).sum(-1) - 1)
        outside = (_at(o, d, cap)[..., 2] - end) * (1 if end > 0 or half == 0 else -1) >= 0
        best = np.minimum(best, _valid(cap, outside if half > 0 else np.isfinite(cap)))
    return best


def _object(o, d, shape):
    if shape == BALL:
        roots = _quadratic((d**2).sum(-1), (o * d).sum(-1), (o**2).sum(-1) - 1)
        return _valid(roots, np.isfinite(roots))
    best = np.full(len(d), np.inf)
    for axis in (2,) if shape == CYLINDER else (0, 1, 2):
        for end in (-1.0, 1.0):
            with np.errstate(divide="ignore"):
                t = ((end - o[:, axis]) / d[:, axis])[None]
            others = np.delete(_at(o, d, t), axis, axis=-1)
            within = (others**2).sum(-1) if shape == CYLINDER else np.abs(others).max(-1)
            best = np.minimum(best, _valid(t, within <= 1))
    if shape == CYLINDER:
        side = _quadratic(
            (d[:, :2] ** 2).sum(-1), (o[:, :2] * d[:, :2]).sum(-1), (o[:, :2] ** 2).sum(-1) - 1
        )
        best = np.minimum(best, _valid(side, np.abs(_at(o, d, side)[..., 2]) <= 1))
    return best


def trace(solids, clip, frame, origin, directions):
    """Nearest t along rays from `origin` [3] in `directions` [n, 3], and what is there.

    `solids` holds float64 arrays of one batch. Numbers: solids, then ground, two walls, sky.
    """
    count = solids["centre"].shape[2]
    objects = solids["shape"].shape[1]
    hits = []
    for n in range(count):
        m, c = solids["inverse"][clip, frame, n], solids["centre"][clip, frame, n]
        o = np.broadcast_to(m @ (origin - c), directions.shape)
        d = directions @ m.T
        thing = n - (count - objects)
        if thing < 0:
            t = _capsule(o, d, solids["half"][clip, frame, n])
        elif solids["active"][clip, thing]:
            t = _object(o, d, solids["shape"][clip, thing])
        else:
            t = np.full(len(d), np.inf)
        hits.append(t)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = -origin[2] / directions[:, 2]
        hits.append(np.where((t > 0) & (t < FAR), t, np.inf))
        for wall, axis in ((0, 1), (1, 0)):
            t = (solids["wall_distance"][clip, wall] - origin[axis]) / directions[:, axis]
            z = origin[2] + t * directions[:, 2]
            good = solids["walls"][clip, wall] & (t > 0) & (t < FAR)
            good &= (z >= 0) & (z < solids["wall_height"][clip])
            hits.append(np.where(good, t, np.inf))
    hits.append(np.full(len(directions), 1e30))
    hits = np.stack(hits)
    which = hits.argmin(axis=0)
    depth = hits.min(axis=0)
    return np.where(depth > 1e29, np.inf, depth), which


def rays(cameras, clip, frame, pixels, height, width):
    """Origin and directions (unit z in camera axes) through pixels [n, 2]."""
    focal = cameras["focal"][clip, frame]
    local = np.concatenate(
        [(pixels - [width / 2, height / 2]) / focal, np.ones((len(pixels), 1))], axis=1
    )
    return cameras["position"][clip, frame], local @ cameras["axes"][clip, frame]


def project(cameras, clip, frame, points, height, width):
    """Pixels of world points [n, 3]."""
    seen = (points - cameras["position"][clip, frame]) @ cameras["axes"][clip, frame].T
    return seen[:, :2] / seen[:, 2:] * cameras["focal"][clip, frame] + [width / 2, height / 2]
