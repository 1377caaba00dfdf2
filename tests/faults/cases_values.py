"""Values of a configuration that no training can have."""

import functools
import importlib.util
import math

from absl import flags

from tests.faults.harness import ROOT, Case


@functools.cache
def _program():
    """The training program as a module, with its flags forgotten afterwards."""
    before = set(flags.FLAGS)
    spec = importlib.util.find_spec("unityvideo_jax.train")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)
    return module


def _value(key, value, file):
    def act(folder):
        spec = importlib.util.spec_from_file_location("made", ROOT / "configs" / file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config = module.get_config()
        section, _, name = key.rpartition(".")
        part = config[section] if section else config
        with part.unlocked(), part.ignore_type():
            part[name] = value
        if file == "worlds_tiny.py":
            return _program().check(config)
        from unityvideo_jax import train_vae

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

FILES = {"worlds_tiny.py": VALUES, "vae_worlds.py": OF_VAE}
CASES = [
    Case(
        kind="values",
        name=f"{file} {key}={value!r}",
        act=_value(key, value, file),
        says=(key.rpartition(".")[2],),
    )
    for file, listed in FILES.items()
    for key, values in listed.items()
    for value in values
]
