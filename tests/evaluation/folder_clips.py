"""A small benchmark in folders, and predictions of known quality."""

import json

import numpy as np

from unityvideo_jax import media

T, H, W = 3, 32, 48


def truth(seed):
    """Arrays of one clip by modality, smooth enough to draw."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:H, 0:W].astype(np.float32)
    depth = np.stack([2.0 + (x + y + 3 * t) / 20.0 for t in range(T)]).astype(np.float32)
    depth[:, :4] = np.inf
    segments = np.zeros((T, H, W), np.int32)
    for i in range(1, 3):
        top, left = rng.integers(2, 18), rng.integers(2, 30)
        segments[:, top : top + 10, left : left + 12] = i
    flow = np.zeros((T, H, W, 2), np.float32)
    flow[segments > 0] = rng.normal(0, 3, 2)
    keypoints = rng.uniform(4, 28, (T, 1, 17, 2)).astype(np.float32)
    keypoints[:, :, [5, 6, 11, 12]] = [[30, 8], [20, 8], [30, 24], [20, 24]]
    uv = np.stack(np.broadcast_arrays(x / W, y / H), axis=-1)[None].repeat(T, 0)
    part = (segments > 0) * rng.integers(1, 25)
    return {
        "depth": {"depth": depth},
        "flow": {"flow": flow, "instances": segments, "occluded": segments == 2},
        "segmentation": {"segments": segments},
        "skeleton": {"keypoints": keypoints, "visibility": np.full((T, 1, 17), 2, np.int32)},
        "densepose": {"part": part.astype(np.int32), "uv": (uv * (part > 0)[..., None])},
    }


def rgb(seed, frames=T):
    """A drifting gradient, uint8."""
    y, x = np.mgrid[0:H, 0:W]
    shade = np.stack([(4 * x + 3 * y + 9 * t + 20 * seed) % 256 for t in range(frames)])
    return np.stack([shade, shade // 2, 255 - shade], axis=-1).astype(np.uint8)


def write(folder, arrays):
    folder.mkdir(parents=True, exist_ok=True)
    for modality, named in arrays.items():
        np.savez(folder / f"{modality}.npz", **named)


def benchmark(folder, clips=3):
    """Every modality and a video for clips 0, 1, ...; returns the folder."""
    for i in range(clips):
        path = folder / f"clip{i}"
        write(path, truth(i))
        media.write_video(path / "rgb.mp4", rgb(i), 8.0)
        (path / "clip.json").write_text(json.dumps({"caption": f"gradient {i}", "fps": 8}))
    return folder


def perfect(folder, clips=3):
    """Predictions equal to the truth, with a scale that alignment takes away."""
    for i in range(clips):
        path = folder / f"clip{i}"
        arrays = truth(i)
        arrays["depth"] = {"depth": 3.0 * arrays["depth"]["depth"]}
        write(path, arrays)
        media.write_video(path / "rgb.mp4", rgb(i), 8.0)
        write(path / "reestimated" / "raft", {"flow": {"flow": arrays["flow"]["flow"] + 1.0}})
    return folder
