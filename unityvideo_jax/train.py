r"""Trains UnityVideo.

  python -m unityvideo_jax.train --config=worlds_tiny --workdir=run \
      --config.data.dirs="('shards',)"

Any key of the config can be overridden as --config.<key>=value. The same command resumes a run.
On several hosts the same command runs on each; see docs/launch.md.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from unityvideo_jax import cli
from unityvideo_jax.errors import UserError
from unityvideo_jax.files import disk, stores
from unityvideo_jax.parallel import hosts
from unityvideo_jax.parallel.mesh import MeshConfig, make_mesh
from unityvideo_jax.runtime import seeds
from unityvideo_jax.settings.sections import check_keys, check_value, section
from unityvideo_jax.training.curriculum import Stage, stages
from unityvideo_jax.training.workdir import open_workdir

FLAGS = flags.FLAGS


def _data_of(config: ml_collections.ConfigDict, stage: Stage) -> dict[str, Any]:
    """`config.data` as a curriculum stage has it."""
    changes = {
        "dir_weights": stage.dir_weights,
        "streams": stage.streams,
        "buckets": stage.buckets,
    }
    return dict(config.data.items()) | {key: value for key, value in changes.items() if value}


def build_iterator(
    config: ml_collections.ConfigDict,
    stage: Stage,
    share: tuple[int, int],
    *,
    seed_offset: int = 0,
    split: str | None = None,
    **changes: Any,
) -> Any:
    """Builds a share (index, count) of a curriculum stage's batches, from shards or online.

    Args:
      config: the experiment.
      stage: of the curriculum.
      share: index of this process's part of each batch, and the number of equal parts.
      seed_offset: for batches that training does not see.
      split: of online worlds, if not the config's.
      changes: of `config.data`.
    """
    data = _data_of(config, stage) | changes
    if split is not None and data["kind"] == "online":
        data["split"] = split
    from unityvideo_jax.inputs.buckets import RECORDS, count_streams
    from unityvideo_jax.inputs.config import as_data_config
    from unityvideo_jax.inputs.interleaved import Interleaved
    from unityvideo_jax.inputs.sized import filled_by

    data = as_data_config(data)
    parts = {}
    for place, bucket in enumerate(data.shapes(config.train.batch_size)):
        # Each stage shuffles and draws on its own, and so does each bucket.
        seed = seeds.after(config.seed, 1000 * stage.index + seed_offset)
        common = dict(
            batch_size=bucket.batch_size,
            streams=bucket.streams,
            stage_weights=stage.weights,
            process_index=share[0],
            process_count=share[1],
        )
        own = filled_by(data, bucket)
        if data.kind == "online":
            from unityvideo_jax.inputs.online import OnlineWorlds
            from unityvideo_jax.inputs.reused import Reused

            common |= {"seed": seed, "first_world": place * RECORDS}
            worlds = OnlineWorlds(own, tuple(config.model.modalities), **common)
            iterator = Reused(worlds, data.repeats, seed)
        else:
            from unityvideo_jax.inputs.pipeline import make_iterator

            common |= {"seed": seeds.after(seed, 50 * place), "first_record": place * RECORDS}
            iterator = make_iterator(own, tuple(config.model.modalities), **common)
        name = bucket.label if data.buckets else count_streams(bucket.streams)
        parts[name] = (bucket.weight, iterator)
    return Interleaved(parts) if len(parts) > 1 else iterator


def make_sampler(config: ml_collections.ConfigDict, graphdef: Any) -> Any:
    """Makes contact sheets of all tasks for a few records; of RGB alone if no more is trained."""
    from flax import nnx

    from unityvideo_jax.inputs.buckets import Bucket
    from unityvideo_jax.inputs.config import as_data_config
    from unityvideo_jax.pretrained.text import load_text_encoder
    from unityvideo_jax.pretrained.vae import load_vae
    from unityvideo_jax.sampling.generate import SamplerConfig
    from unityvideo_jax.sampling.sheets import TrainingSheets

    plan = stages(config.curriculum, dict(config.data.modality_weights), config.train.steps)
    # Every process samples the same records, of the config's own size.
    data = as_data_config(_data_of(config, plan[-1]))
    frames, height, width = data.size
    own = Bucket(frames=frames, height=height, width=width, batch_size=config.train.batch_size)
    changes = {
        "streams": (0.0, 1.0) if data.max_streams > 1 else (1.0,),
        "rgb_alone": 1.0,
        "buckets": (own,) if data.buckets else (),
    }
    batch = next(
        build_iterator(config, plan[-1], (0, 1), seed_offset=1, split="validation", **changes)
    )
    texts = load_text_encoder(config.data.text_encoder, config.data.text_length)
    return TrainingSheets(
        lambda params: nnx.merge(graphdef, params),
        load_vae(config.data.vae or None),
        batch,
        null_text=texts([""])[0],
        modalities=tuple(config.model.modalities),
        sampler=section(SamplerConfig, config, "sampling"),
        drops_prompts=config.data.get("prompt_dropout", 0.0) > 0,
        seed=config.seed,
        count=config.train.sample_count,
    )


def check(config: ml_collections.ConfigDict) -> None:
    """Raises UserError for mistakes in a config, before anything is opened or written."""
    from unityvideo_jax.inputs.buckets import size_name
    from unityvideo_jax.inputs.config import READ_LATER, as_data_config, stage_modality_weights
    from unityvideo_jax.training import adapters
    from unityvideo_jax.training.config import SECTIONS

    classes = {name: cls for name, cls in SECTIONS.items() if name != "data"}
    needed = ("seed", "data", "curriculum", *classes)
    check_keys(config, (*needed, "init_from"), "config.", needed)
    seeds.check(config.seed, "config.seed")
    for name, cls in classes.items():
        section(cls, config, name)
    check_value(str, config.get("init_from", ""), "config.init_from")
    adapters.check(section(SECTIONS["lora"], config, "lora"), config.get("init_from"))
    weighted = config.objective.get("modality_loss_weights", {})
    check_keys(weighted, config.model.modalities, "config.objective.modality_loss_weights.")
    read = ("modality_weights", *READ_LATER)
    check_keys(config.data, list(config.data), "config.data.", read)
    as_data_config(config.data)
    plan = stages(config.curriculum, dict(config.data.modality_weights), config.train.steps)
    sizes = set()
    for stage in plan:
        data = as_data_config(_data_of(config, stage))
        stage_modality_weights(data, config.model.modalities, stage.weights)
        sizes |= {bucket.size for bucket in data.shapes(config.train.batch_size)}
    if data.size not in sizes:
        raise UserError(
            f"config.data.num_frames, height, width: {size_name(data.size)}, which contact sheets, "
            "evaluation and samples take by default, is none of config.data.buckets: "
            f"{', '.join(map(size_name, sorted(sizes)))}; set them to one of these"
        )


def _bucket_lines(config) -> list[str]:
    """The shards that fill the buckets of each stage of the curriculum, and those in none."""
    from unityvideo_jax.inputs.config import as_data_config
    from unityvideo_jax.inputs.sized import table, unused
    from unityvideo_jax.planning.fit import step_tokens

    lines: list[str] = []
    for stage in stages(config.curriculum, dict(config.data.modality_weights), config.train.steps):
        changes = not stage.index or stage.buckets or stage.streams
        if stage.start >= config.train.steps or not changes:
            continue
        data = as_data_config(_data_of(config, stage))
        shapes = data.shapes(config.train.batch_size)
        lines += [f"from step {stage.start}:"] * (stage.start > 0)
        if data.buckets:
            lines += table(data, shapes, [step_tokens(config, bucket) for bucket in shapes])
        lines += unused(data, shapes)
    return lines


def define_flags() -> None:
    """Called by the program alone, so that importing this module claims no flag names."""
    cli.define_config("The experiment.")
    cli.define_path("workdir", None, "Folder of the run.", writes="folder")
    flags.DEFINE_string(
        "profile_steps", "", "Trace steps A to B - 1 for XProf, as A:B, into WORKDIR/profile."
    )
    flags.DEFINE_integer(
        "profile_memory", 0, "Write live device memory before this step; 0 is never.", lower_bound=0
    )
    flags.DEFINE_bool(
        "fallback",
        False,
        "If the checkpoint is damaged, resume from the newest whole one before it.",
    )
    flags.DEFINE_bool("dump_hlo", False, "Write the compiled step into WORKDIR/profile.")


def main(argv: Sequence[str]) -> None:
    """Trains, or resumes, the run in --workdir."""
    del argv
    from unityvideo_jax.inputs.config import as_data_config
    from unityvideo_jax.inputs.fingerprints import fingerprints
    from unityvideo_jax.planning.fit import (
        batch_parts,
        check_divides,
        check_training,
        training_shapes,
    )
    from unityvideo_jax.training import loop
    from unityvideo_jax.training.adapters import identity
    from unityvideo_jax.training.config import check_read
    from unityvideo_jax.training.profiling import ProfileConfig
    from unityvideo_jax.training.workdir import pin_batch_multiple

    config = cli.read_config(FLAGS.config)
    if config is None or FLAGS.workdir is None:
        raise UserError("give both --config=NAME and --workdir=FOLDER")
    check(config)
    overridden = config_flags.get_override_values(flags.FLAGS["config"])
    check_read(config, overridden)
    profile = ProfileConfig(
        steps=FLAGS.profile_steps, hlo=FLAGS.dump_hlo, memory=FLAGS.profile_memory
    )
    hosts.initialize()
    workdir = pathlib.Path(FLAGS.workdir)
    log = lambda line: print(line, flush=True) if hosts.is_first() else None  # noqa: E731
    base = lambda: identity(config.init_from) if config.lora.rank else {}  # noqa: E731
    opened = open_workdir(
        workdir,
        config,
        overridden=overridden,
        identify=lambda: fingerprints(as_data_config(config.data)) | base(),
        log=log,
    )
    with hosts.leaves_at_once():
        mesh = make_mesh(section(MeshConfig, config, "mesh"))
        pin_batch_multiple(workdir, config, batch_parts(config, mesh))
        check_divides(config, training_shapes(config), batch_parts(config, mesh))
        check_training(config, mesh)
    with hosts.leaves_at_once(), disk.explained(workdir), hosts.first_only(opened):
        if not hosts.is_first():
            stores.pull(workdir)  # the configuration that the first process has pinned
        share = hosts.feed_share(mesh)
        for line in _bucket_lines(config):
            log(line)
        if (warm := config.optimizer.warmup_steps) > (steps := config.train.steps):
            log(
                f"config.optimizer.warmup_steps={warm}: in {steps} steps the learning rate comes "
                f"to {steps / warm:.0%} of config.optimizer.learning_rate"
            )
        loop.train(
            config,
            workdir,
            lambda stage: build_iterator(config, stage, share),
            lambda graphdef: make_sampler(config, graphdef),
            log=log,
            profile=profile,
            fallback=FLAGS.fallback,
        )


if __name__ == "__main__":
    define_flags()
    cli.run(main)
