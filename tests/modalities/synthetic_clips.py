"""Small closed-form clips, so that codec tests need no renderer."""

import numpy as np

# A standing person, facing the camera, in units of its height; the origin is mid-hip, y down.
FIGURE = np.asarray(
    [
        (0.00, -0.43),
        (0.02, -0.45), (-0.02, -0.45),
        (0.045, -0.44), (-0.045, -0.44),
        (0.11, -0.30), (-0.11, -0.30),
        (0.17, -0.14), (-0.17, -0.14),
        (0.19, 0.02), (-0.19, 0.02),
        (0.06, 0.00), (-0.06, 0.00),
        (0.07, 0.24), (-0.07, 0.24),
        (0.08, 0.47), (-0.08, 0.47),
    ],
    np.float32,
)  # fmt: skip


def people(frames, height, width, count=2, size=0.7, seed=0):
    """`count` people side by side who swing arms and legs and drift to the right."""
    rng = np.random.default_rng(seed)
    tall = size * height
    keypoints = np.zeros((frames, count, 17, 2), np.float32)
    for p in range(count):
        phase = rng.uniform(0, 6.28)
        for t in range(frames):
            pose = FIGURE.copy()
            swing = 0.06 * np.sin(phase + 0.8 * t)
            pose[[9, 14, 16], 0] += swing
            pose[[10, 13, 15], 0] -= swing
            pose[[9, 10], 1] -= 0.5 * abs(swing)
            centre = ((p + 0.5) / count * width + 0.3 * t, 0.5 * height + 0.2 * p)
            keypoints[t, p] = centre + tall * pose
    return keypoints, np.full((frames, count, 17), 2, np.int32)


def clip(frames=5, height=64, width=64, seed=0):
    """One clip with every key: a slanted ground under a sky and two moving discs before it."""
    rng = np.random.default_rng(seed)
    t, y, x = np.meshgrid(np.arange(frames), np.arange(height), np.arange(width), indexing="ij")
    x, y = x + 0.5, y + 0.5
    diagonal = np.hypot(height, width)
    horizon = 0.35 * height
    ground = y > horizon
    depth = np.where(ground, 2.0 * height / np.maximum(y - horizon + 0.05 * height, 1.0), np.inf)
    flow = np.stack([0.01 * diagonal * np.cos(y / height * 9), 0.002 * (x - width / 2)], axis=-1)
    segments = np.zeros((frames, height, width), np.int32)
    part = np.zeros_like(segments)
    uv = np.zeros((frames, height, width, 2))
    for k, (cx, cy, speed) in enumerate([(0.3, 0.5, 0.02), (0.65, 0.6, -0.01)], start=1):
        u = (x - (cx + speed * t) * width) / (0.2 * width)
        v = (y - cy * height) / (0.25 * height)
        inside = u**2 + v**2 < 1
        depth = np.where(inside, 1.5 + k + 0.2 * u, depth)
        flow = np.where(inside[..., None], (speed * width, 0.3 * k), flow)
        segments = np.where(inside, k, segments)
        angle = np.floor((np.arctan2(v, u) + np.pi) / (2 * np.pi) * 12).clip(0, 11)
        part = np.where(inside, 1 + angle + 12 * (k - 1), part)
        uv = np.where(inside[..., None], np.stack([u, v], -1) / 2 + 0.5, uv)
    keypoints, visibility = people(frames, height, width, seed=seed)
    return {
        "rgb": rng.uniform(size=(frames, height, width, 3)).astype(np.float32),
        "depth": depth.astype(np.float32),
        "flow": flow.astype(np.float32),
        "segments": segments.astype(np.int32),
        "part": part.astype(np.int32),
        "uv": uv.clip(0, 1).astype(np.float32),
        "keypoints": keypoints,
        "visibility": visibility,
    }


def eight_bit(video):
    """The video as an 8-bit file would hold it."""
    return np.round((np.clip(np.asarray(video), -1, 1) + 1) * 127.5) / np.float32(127.5) - 1


def softened(video, sigma=0.6, noise=0.05, seed=0):
    """A stand-in for a VAE: blurred a little, with noise of a 32 dB reconstruction."""
    import scipy.ndimage

    video = scipy.ndimage.gaussian_filter(np.asarray(video), (0, sigma, sigma, 0))
    video = video + noise * np.random.default_rng(seed).standard_normal(video.shape)
    return np.clip(video, -1, 1).astype(np.float32)
