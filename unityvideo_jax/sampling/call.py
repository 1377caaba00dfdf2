"""One call of a pipeline: given videos become latents, and sampled latents become videos."""

import contextlib
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unityvideo_jax.errors import UserError
from unityvideo_jax.files import provenance
from unityvideo_jax.modalities import RGB
from unityvideo_jax.runtime import capacity
from unityvideo_jax.sampling import arrays, calibration, files, texts
from unityvideo_jax.sampling.control import Control, counts_of, put_known
from unityvideo_jax.sampling.fit import Load
from unityvideo_jax.sampling.generate import SamplerConfig
from unityvideo_jax.sampling.samples import Samples
from unityvideo_jax.sampling.streams import PIXEL_BYTES, check_size, stream_groups, stream_order

# Frames of a still from which the latents of a last frame are taken: one and a latent frame more.
STILL = 5
ROLES = ("first_frame", "last_frame")


def sample(
    pipeline: Any,
    prompts: str | Sequence[str],
    *,
    given: Mapping[str, Any],
    wanted: Sequence[str],
    control: Control,
    modality_prompts: Mapping[str, str | Sequence[str]],
    sampler: SamplerConfig,
    seed: int | Sequence[int],
    size: tuple[int | None, int | None, int | None],
) -> Samples:
    """Samples the wanted streams; arguments and errors as `Pipeline.__call__`.

    Raises:
      UserError: as `Pipeline.__call__`.
    """
    captions = [prompts] if isinstance(prompts, str) else list(prompts)
    batch = len(captions)
    streams = _streams(pipeline, captions, given, wanted, modality_prompts)
    control.check(tuple(given), tuple(wanted), pipeline.model_config, sampler, captions)
    groups = stream_groups(streams, tuple(given), tuple(wanted), sampler.separate)

    read, videos, size = _read(pipeline, given, streams, size, batch)
    cells = (batch, *pipeline.vae.config.latent_shape(*size))
    latent_window = sampler.latent_window(pipeline.vae.config.temporal_stride)
    at_once = (
        cells[1:4] if latent_window is None else (min(cells[1], latent_window[0]), *cells[2:4])
    )
    per_device = -(-len(groups) * batch // pipeline.devices.count)
    load = Load(
        model=pipeline.model_config,
        latent_shape=at_once,
        streams=len(groups[0]),
        batch=per_device,
    )
    load.check()
    capacity.check_host(
        PIXEL_BYTES * batch * len(wanted) * math.prod(size),
        f"{batch} videos of {len(wanted)} wanted streams",
        "sample fewer frames, pixels or samples at once",
    )
    masks, images = _control_files(pipeline, control, size)
    pixels = {name: arrays.as_masks(name, m.video, size, batch) for name, m in masks.items()}

    contexts = [
        pipeline.contexts(group, captions, modality_prompts, control.negative_prompt)
        for group in groups
    ]
    context, null_context = (np.concatenate(parts) for parts in zip(*contexts, strict=True))
    # Groups differ in their texts and the modality that they want, and in nothing else.
    wanted_first = tuple(name for name in wanted if name in groups[0])
    rows, skipped = _rows(
        pipeline, groups[0], wanted_first, videos, pixels, images, control, sampler, cells
    )
    rows["key"] = arrays.sample_keys(seed, batch)
    rows = jax.tree.map(lambda one: jnp.concatenate([one] * len(groups)), rows)
    ids = np.array([[pipeline.modalities.index(name) for name in g] for g in groups], np.int32)
    rows |= {
        "modality": jnp.repeat(ids, batch, axis=0),
        "context": context,
        "null_context": null_context,
    }
    sampler_of_texts = sampler.for_texts(context, null_context)
    schedule = None
    if sampler.cache:
        found, file = calibration.load(pipeline.folder, pipeline.fingerprint)
        counts = rows["counts"]
        schedule = found.schedule(
            str(file), sampler_of_texts, groups[0], wanted_first, counts=counts, skipped=skipped
        )
    mesh = pipeline.devices.mesh
    with load.explained(), contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh):
        result = pipeline.sample_latents(
            pipeline.params,
            jax.tree.map(pipeline.devices.share, rows),
            wanted=tuple(name in wanted for name in groups[0]),
            sampler=dataclasses.replace(sampler_of_texts, cache=0.0, separate=False),
            skipped=skipped,
            latent_window=latent_window,
            schedule=schedule,
        ).block_until_ready()
    latents = {
        name: result[g * batch : (g + 1) * batch, s]
        for g, group in enumerate(groups)
        for s, name in enumerate(group)
    }
    _check_finite({name: latents[name] for name in streams})
    made = {name: pipeline.decode(latents[name], name) for name in streams if name in wanted}
    for name in set(made) & set(pixels):
        made[name] = np.where(pixels[name][..., None], videos[name], made[name])
    # A sampled stream has the scale of the depth that it was given, but not its count of instances.
    scaled = {name: one for name, one in read.items() if name not in wanted or one.unit}
    common = {
        "wanted": list(wanted),
        "sampler": dataclasses.asdict(sampler),
        "given": {name: one.source for name, one in read.items()},
        **{role: images[role].source if role in images else None for role in ROLES},
        "masks": {name: one.source for name, one in masks.items()},
        "weights": dict(control.weights),
        "strength": control.strength,
        "passes": schedule and schedule.count,
        "size": size,
        **_description(pipeline, streams),
    }
    prompts_of = texts.texts_of(streams, captions, modality_prompts)
    negative = texts.per_caption("negative_prompt", control.negative_prompt, batch)
    return Samples(
        videos={name: made[name] if name in made else videos[name] for name in streams},
        latents={name: np.asarray(latents[name]) for name in streams},
        streams=streams,
        wanted=tuple(wanted),
        fps=pipeline.fps,
        codecs={name: pipeline.codec(name) for name in streams},
        sides={name: one.side for name, one in scaled.items() if one.side is not None},
        units={name: one.unit for name, one in scaled.items() if one.unit},
        records=[
            {
                "prompts": {name: row[b] for name, row in prompts_of.items()},
                "negative_prompt": negative[b],
                # Samples of one seed differ by their index; one with its own does not have one.
                "seed": int(np.broadcast_to(seed, batch)[b]),
                "index": b if np.ndim(seed) == 0 else None,
                **common,
            }
            for b in range(batch)
        ],
    )


def _streams(
    pipeline: Any,
    captions: Sequence[str],
    given: Mapping[str, Any],
    wanted: Sequence[str],
    modality_prompts: Mapping[str, str | Sequence[str]],
) -> tuple[str, ...]:
    """The streams of a call in their order; raises UserError for a call that names none."""
    if not captions:
        raise UserError("prompts: empty; pass at least one caption (it may be '')")
    if isinstance(wanted, str):
        raise UserError(f"wanted={wanted!r}: pass a tuple of names, ({wanted!r},)")
    if not wanted:
        raise UserError("wanted: empty; name at least one modality to sample")
    only_given = [name for name in given if name not in wanted]
    streams = stream_order([*only_given, *wanted], pipeline.modalities)
    for name in modality_prompts:
        if name not in streams or name == RGB:
            raise UserError(f"modality_prompts[{name!r}]: no such modality stream in this call")
    return streams


def _read(
    pipeline: Any,
    given: Mapping[str, Any],
    streams: Sequence[str],
    asked: tuple[int | None, int | None, int | None],
    batch: int,
) -> tuple[dict[str, files.Given], dict[str, Float[np.ndarray, "b t h w 3"]], tuple[int, int, int]]:
    """The given streams, their videos by batch, and the size of the call."""
    frames, height, width = asked
    read = files.as_given(
        given,
        num_frames=frames,
        default_frames=pipeline.num_frames,
        height=height or pipeline.height,
        width=width or pipeline.width,
        fps=pipeline.fps,
        multiple=pipeline.token_pixels,
        codecs={name: pipeline.codec(name) for name in given if name in pipeline.modalities},
    )
    videos = {
        name: arrays.as_batch(f"given {name}", read[name].video, batch)
        for name in streams
        if name in read
    }
    default = (pipeline.num_frames, pipeline.height, pipeline.width)
    size = arrays.common_size(videos, asked=asked, default=default)
    check_size(*size, pipeline.token_pixels)
    return read, videos, size


def _control_files(
    pipeline: Any, control: Control, size: tuple[int, int, int]
) -> tuple[dict[str, files.Given], dict[str, files.Given]]:
    """The masks by stream, and the images by role."""
    masks = {
        name: files.as_mask(mask, size, fps=pipeline.fps) for name, mask in control.masks.items()
    }
    images = {
        role: files.as_image(role, getattr(control, role), height=size[1], width=size[2])
        for role in ROLES
        if getattr(control, role) is not None
    }
    if "last_frame" in images and size[0] < STILL:
        raise UserError(f"last_frame: needs {STILL} frames or more, num_frames={size[0]}")
    return masks, images


def _rows(
    pipeline: Any,
    streams: Sequence[str],
    wanted: Sequence[str],
    videos: Mapping[str, Float[np.ndarray, "b t h w 3"]],
    masks: Mapping[str, np.ndarray],
    images: Mapping[str, files.Given],
    asked: Control,
    sampler: SamplerConfig,
    cells: tuple[int, ...],
) -> tuple[dict[str, Any], int]:
    """What `generate` takes of videos, masks and images, and how many steps it skips.

    Arguments are those of one group of streams, see `stream_groups`.
    """
    vae = pipeline.vae.config
    strides = vae.temporal_stride, vae.spatial_stride
    empty = jnp.zeros(cells, jnp.float32)
    latents = jnp.stack(
        [pipeline.encode(videos[n], n) if n in videos else empty for n in streams], axis=1
    )
    skipped, levels = 0, {}
    if asked.strength is not None:
        skipped, level = sampler.skipped_steps(asked.strength)
        levels = {name: level for name in wanted if name in videos}
        # A stream that starts from noise alone needs all of the steps.
        skipped = skipped if len(levels) == len(wanted) else 0
    latents, known = put_known(
        latents,
        streams,
        kept={name: mask for name, mask in masks.items() if name in wanted},
        levels=levels,
        first=_image_latents(pipeline, "first_frame", images, cells[0], 1),
        last=_image_latents(pipeline, "last_frame", images, cells[0], STILL),
        strides=strides,
    )
    rows = {
        "given": latents,
        "known": known,
        "counts": counts_of(streams, wanted, masks, asked.weights, cells[:4], strides),
    }
    return rows, skipped


def _image_latents(
    pipeline: Any, role: str, images: Mapping[str, files.Given], batch: int, frames: int
) -> Float[Array, "b 1 h w c"] | None:
    """The last latent frame of an image that stands still for so many frames, if there is one."""
    if role not in images:
        return None
    still = arrays.as_batch(role, images[role].video, batch)
    return pipeline.encode(np.repeat(still, frames, axis=1), RGB)[:, -1:]


def _check_finite(latents: Mapping[str, Float[Array, "b t h w c"]]) -> None:
    """Raises FloatingPointError that names the streams and samples that are not finite."""
    finite = {name: jnp.isfinite(one).all(axis=(1, 2, 3, 4)) for name, one in latents.items()}
    bad = [f"{name} of sample {b}" for name in latents for b in np.flatnonzero(~finite[name])]
    if bad:
        raise FloatingPointError(f"the sampler left the finite numbers: {', '.join(bad)}")


def _description(pipeline: Any, streams: Sequence[str]) -> dict[str, Any]:
    """What a record says of the model and the program, whatever they sample."""
    return {
        "codecs": {name: pipeline.codec(name).version for name in streams},
        "fps": pipeline.fps,
        "checkpoint_step": pipeline.step,
        "adapters": pipeline.adapters,
        "config_sha256": provenance.config_hash(pipeline.config),
        "config": provenance.plain(pipeline.config),
        "versions": provenance.versions(),
    }
