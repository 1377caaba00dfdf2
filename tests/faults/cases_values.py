"""Values of a configuration that no training can have."""

import math

from tests.faults.harness import Case
from unityvideo_jax import train, train_vae
from unityvideo_jax.settings import presets


def _value(key, value, preset):
    def act(folder):
        config = presets.load(preset)
        section, _, name = key.rpartition(".")
        part = config[section] if section else config
        with part.unlocked(), part.ignore_type():
            part[name] = value
        if preset == "worlds_tiny":
            return train.check(config)
        return train_vae.check(config, folder)

    return act


NAN, INF = math.nan, math.inf
VALUES = {
    "optimizer.learning_rate": (NAN, INF, -1e-3, 0.0, "fast"),
    "optimizer.warmup_steps": (-1, 2.5),
    "optimizer.schedule_steps": (-5,),
    "optimizer.b1": (1.0, -0.1, NAN),
    "optimizer.b2": (1.5, INF),
    "optimizer.eps": (0.0, NAN),
    "optimizer.weight_decay": (-0.01, NAN),
    "optimizer.clip_norm": (0.0, INF),
    "optimizer.ema_decay": (1.0, NAN),
    "optimizer.accumulation": (0, 1.5),
    "objective.p_cond": (0.5, -0.1, NAN),
    "objective.shift": (0.0, -1.0, INF),
    "objective.logit_std": (0.0,),
    "objective.condition_dropout": (1.5, NAN),
    "train.batch_size": (0, -8, 8.0),
    "train.steps": (0, 1e3, "many"),
    "train.log_every": (0,),
    "train.keep": (0,),
    "train.sample_every": (-5,),
    "train.check_every": (-1,),
    "data.caption_dropout": (NAN, 1.1),
    "data.fps": (NAN, INF, 0.0),
    "data.num_workers": (-1,),
    "data.read_threads": (0,),
    "data.repeats": (0, 1.5),
    "sampling.shift": (NAN, 0.0),
    "sampling.text_guidance": (INF,),
    "model.eps": (NAN, 0.0),
    "model.dim": (96.0, 0),
    "model.scan_layers": ("yes",),
    "seed": ("one", 1.5),
}

OF_VAE = {
    "optimizer.learning_rate": (NAN, -1.0),
    "optimizer.b2": (1.0,),
    "optimizer.emma": (0.9,),
    "loss.kl": (NAN, -1.0),
    "steps": (0,),
    "max_seconds": (NAN,),
}

PRESETS = {"worlds_tiny": VALUES, "vae_worlds": OF_VAE}
CASES = [
    Case(
        kind="values",
        name=f"{preset} {key}={value!r}",
        act=_value(key, value, preset),
        says=(key.rpartition(".")[2],),
    )
    for preset, listed in PRESETS.items()
    for key, values in listed.items()
    for value in values
]
