"""Small sources and encoders, so that these tests need neither rendering nor trained weights."""

import hashlib
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from unityvideo_jax import modalities as registry
from unityvideo_jax.inputs.encode import LatentEncoder
from unityvideo_jax.inputs.preparing import prepare
from unityvideo_jax.inputs.sources import ClipBatch
from unityvideo_jax.models import build
from unityvideo_jax.models.vae.wan_vae import VAEConfig, WanVAE
from unityvideo_jax.pretrained.vae import save_vae

MODALITIES = ("rgb", "depth", "flow")
SIZE = dict(num_frames=5, height=16, width=16)


def clip(number, num_frames=5, height=16, width=16):
    """Ground truth that codecs accept, different for every number."""
    rng = np.random.default_rng(number)
    shape = (num_frames, height, width)
    return {
        "rgb": rng.random((*shape, 3), np.float32),
        "depth": (1 + rng.random(shape)).astype(np.float32),
        "flow": rng.normal(size=(*shape, 2)).astype(np.float32),
        "occluded": rng.random(shape) < 0.1,
    }


class NoiseSource:
    """Noise for clips, drawn by the real codecs."""

    def __init__(self, count, delay=0.0, salt=0, **size):
        self.keys = [f"noise-{n:04d}" for n in range(count)]
        self.fps, self.codecs, self.faults = 8.0, {}, ()
        self._delay, self._salt, self._size = delay, salt, size

    def identity(self, key, modality):
        return f"{self._salt} {key}"

    def texts(self, modalities):
        return None

    def settings(self):
        return {"seed": self._salt}

    def load(self, indices, modalities):
        time.sleep(self._delay)
        drawn = {
            m: [
                registry.get(m).codec.encode(clip(1000 * self._salt + n, **self._size))
                for n in indices
            ]
            for m in modalities
        }
        return ClipBatch(
            videos={m: np.stack([v for v, _ in rows]) for m, rows in drawn.items()},
            sides={
                m: {k: np.stack([s[k] for _, s in rows]) for k in rows[0][1]}
                for m, rows in drawn.items()
            },
            texts={m: [f"{m} of clip {n}" for n in indices] for m in modalities},
        )


def _apply(params, video):
    b, t, h, w, _ = video.shape
    frames = video[:, :: 4 if t > 1 else 1]
    pooled = frames.reshape(b, (t - 1) // 4 + 1, h // 8, 8, w // 8, 8, 3).mean((3, 5))
    return pooled @ params


def encoder(identity="stand-in"):
    """8x8 means of every fourth frame, in four channels."""
    statistics = {"depth": (np.full(4, 0.1, np.float32), np.full(4, 2.0, np.float32))}
    return LatentEncoder(apply=_apply, params=jnp.eye(3, 4), id=identity, statistics=statistics)


class HashTexts:
    """A text's digest, repeated over a few tokens."""

    name, dim, length = "words", 8, 6

    def count(self, text):
        return len(text.split()) + 1

    def __call__(self, texts):
        rows = []
        for text in texts:
            digest = np.frombuffer(hashlib.md5(text.encode()).digest()[:8], np.uint8) / 255
            row = np.zeros((self.length, self.dim), np.float32)
            row[: min(self.length, len(text.split()) + 1)] = digest
            rows.append(row)
        return np.stack(rows)


def save_tiny_vae(path):
    """The real autoencoder, four channels wide, with random weights."""
    config = VAEConfig(base_dim=4, num_res_blocks=1)
    # Initialising eagerly takes seconds; random arrays of the right shapes do not.
    graph, shapes = build.abstract(WanVAE, config)
    rng = np.random.default_rng(0)
    weights = jax.tree.map(lambda s: 0.2 * jnp.asarray(rng.normal(size=s.shape), s.dtype), shapes)
    save_vae(nnx.merge(graph, weights), path)
    return path


def prepare_noise(workdir, count=10, *, modalities=MODALITIES, delay=0.0, salt=0, **overrides):
    """Shards of noise clips in `workdir`."""
    settings = dict(chunk_size=4, batch_size=2, **SIZE) | overrides
    return prepare(
        NoiseSource(count, delay, salt, **{key: settings[key] for key in SIZE}),
        encoder(),
        HashTexts(),
        workdir=workdir,
        modalities=modalities,
        **settings,
    )


def prepare_sizes(workdir, sizes, count=6, modalities=MODALITIES):
    """Shards of noise clips of each size (frames, height, width), as `prepare --sizes` lays out."""
    for salt, size in enumerate(sizes):
        frames, height, width = size
        own = dict(num_frames=frames, height=height, width=width, salt=salt)
        prepare_noise(workdir / "x".join(map(str, size)), count, modalities=modalities, **own)


def config(*dirs, **overrides):
    """A `config.data` for such shards."""
    values = dict(
        kind="shards",
        dirs=tuple(map(str, dirs)),
        dir_weights=(1.0,) * len(dirs),
        modality_weights={"depth": 1 / 3, "flow": 2 / 3},
        caption_dropout=0.0,
        text_length=HashTexts.length,
        vae="/no/vae/here",
        read_threads=2,
        **SIZE,
    )
    return values | overrides
