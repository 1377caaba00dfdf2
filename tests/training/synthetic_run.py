"""A tiny run on batches that are a function of their index."""

import sys

import ml_collections
import numpy as np

MODALITIES = ("rgb", "depth", "flow", "segmentation", "skeleton", "densepose")


def start_light() -> None:
    """For programs of their own: TensorBoard's writer imports these if it can, for seconds."""
    sys.modules.update(dict.fromkeys(("torch", "boto3", "google.cloud.storage")))


def tiny_config(**train) -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.model = dict(
        dim=32,
        ffn_dim=64,
        num_heads=4,
        num_layers=2,
        in_channels=4,
        freq_dim=16,
        text_dim=8,
        text_len=4,
        modalities=MODALITIES,
        remat="none",
        dtype="float32",
        attention="xla",
    )
    config.objective = dict(condition_dropout=0.1)
    config.data = dict(modality_weights={m: 1.0 for m in MODALITIES[1:]}, kind="shards")
    config.curriculum = (
        dict(until=3, modalities=("depth", "flow")),
        dict(until=-1, modalities=MODALITIES[1:]),
    )
    config.optimizer = dict(learning_rate=1e-2, warmup_steps=2, schedule="cosine", clip_norm=1.0)
    config.mesh = dict(data=1, fsdp=1, context=1, tensor=1)
    config.sampling = dict(steps=2)
    config.train = dict(
        dict(steps=8, batch_size=8, log_every=1, checkpoint_every=2, keep=2, sample_every=0)
    )
    config.train.update(train)
    return config


class Batches:
    """Batch n is drawn from seed (stage, n); the state is n."""

    def __init__(self, stage, batch_size=8, poison_at=None, streams=(2,)):
        self.stage, self.batch_size, self.poison_at = stage, batch_size, poison_at
        self.streams, self.n = streams, 0

    def __next__(self):
        rng = np.random.default_rng((self.stage.index, self.n))
        ids = [MODALITIES.index(m) for m in self.stage.weights]
        b, s = self.batch_size, self.streams[self.n % len(self.streams)]
        latents = rng.normal(size=(b, s, 2, 4, 4, 4)).astype(np.float32) * 0.5 + 1.0
        if self.n == self.poison_at:
            latents[3] = np.nan
        batch = {
            "latents": latents,
            "modality": np.stack(
                [np.zeros(b), *(rng.choice(ids, b) for _ in range(s - 1))], 1
            ).astype(np.int32),
            "context": rng.normal(size=(b, s, 4, 8)).astype(np.float32),
            "index": np.arange(self.n * b, (self.n + 1) * b, dtype=np.int32),
        }
        self.n += 1
        return batch

    def get_state(self):
        return {"next_index": self.n}

    def set_state(self, state):
        self.n = state["next_index"]
