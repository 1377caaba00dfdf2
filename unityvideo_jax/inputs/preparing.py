"""Clips to latent shards: render or read, draw, encode, stage in chunks, pack."""

import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from unityvideo_jax import capacity
from unityvideo_jax import modalities as registry
from unityvideo_jax.errors import UserError
from unityvideo_jax.inputs import shards
from unityvideo_jax.inputs.config import PATCH, check_frames, check_size
from unityvideo_jax.inputs.encode import LatentEncoder
from unityvideo_jax.inputs.sources import ClipBatch, Source
from unityvideo_jax.inputs.staging import Progress, Staging, difference
from unityvideo_jax.models.text import TextEncoder
from unityvideo_jax.paths import atomic_path

# A pixel of a video in [-1, 1]: three numbers in float32.
PIXEL_BYTES = 12


def prepare(
    source: Source,
    encoder: LatentEncoder,
    text_encoder: TextEncoder,
    *,
    workdir: str | pathlib.Path,
    modalities: Sequence[str],
    num_frames: int,
    height: int,
    width: int,
    chunk_size: int = 16,
    batch_size: int = 8,
    extra_settings: dict[str, Any] | None = None,
) -> shards.Card:
    """Writes latent shards, going on where an earlier run of the same settings was killed.

    A finished dataset gains the modalities that it lacks, also those whose folder was deleted; one
    that lacks nothing is left alone.

    Args:
      source: clips, all of num_frames x height x width.
      encoder: video to latents.
      text_encoder: text to embeddings.
      workdir: the shards go to `<workdir>/latents/`.
      modalities: series to write, 'rgb' among them.
      num_frames, height, width: 4n+1 and multiples of 16 (with Wan 2.2's VAE of 32).
      chunk_size: clips a staged file, hence what a kill can cost.
      batch_size: clips that one VAE call encodes.
      extra_settings: further values that must agree on a resume, such as the flags' own.

    Returns:
      The card of the finished dataset.

    Raises:
      UserError: bad sizes or modalities, a workdir of other settings, or one in use.
    """
    check_frames(num_frames, "--num_frames")
    check_size(height, "--height")
    check_size(width, "--width")
    if chunk_size < 1 or batch_size < 1:
        raise UserError("--chunk_size and --batch_size must be at least 1")
    capacity.check_host(
        batch_size * num_frames * height * width * PIXEL_BYTES,
        f"--batch_size={batch_size} of {num_frames} frames of {height}x{width}",
        "encode fewer or smaller clips at once",
    )
    shape = encoder.latent_shape(num_frames, height, width)
    check_size(height, "--height", PATCH * height // shape[1])
    check_size(width, "--width", PATCH * width // shape[2])
    record = 2 * (math.prod(shape) + text_encoder.length * text_encoder.dim)
    capacity.check_host(
        min(chunk_size, len(source.keys)) * len(modalities) * record,
        f"--chunk_size={chunk_size}",
        "stage fewer clips per file",
    )
    if repeated := {m for m in modalities if list(modalities).count(m) > 1}:
        raise UserError(f"--modalities: {', '.join(repeated)} given twice")
    codecs = {name: registry.chosen_codec(name, source.codecs) for name in modalities}
    if not len(source.keys):
        raise UserError("--num_clips=0: nothing to prepare; give at least one clip")
    workdir = pathlib.Path(workdir)
    settings = {
        **(extra_settings or {}),
        **source.settings(),
        "num_clips": len(source.keys),
        "num_frames": num_frames,
        "height": height,
        "width": width,
        "vae": encoder.id,
        "text_encoder": text_encoder.name,
        "text_length": text_encoder.length,
        **{f"codec of {name}": codec.version for name, codec in codecs.items()},
    }
    finished = _finished(workdir, settings, codecs)
    # A series that was deleted, because a file of it is corrupt, is written again.
    have = (
        [m for m in finished.modalities if shards.series_path(workdir, m).is_dir()]
        if (finished)
        else []
    )
    todo = [name for name in modalities if name not in have]
    if not finished and "rgb" not in todo:
        raise UserError("--modalities lacks rgb, which every sample contains; add it")
    staging = Staging(
        workdir,
        {**settings, "modalities": todo, "chunk_size": chunk_size, "batch_size": batch_size},
        num_clips=len(source.keys),
        chunk_size=chunk_size,
    )
    if finished and not todo:
        print(f"{workdir}: complete already, {finished.count} clips of {', '.join(have)}")
        staging.remove()
        return finished
    with staging.locked():
        staging.check()
        staging.begin()
        _stage(staging, source, encoder, text_encoder, todo, batch_size)
        staging.remove_partial_series(todo)
        for name in todo:
            _pack(staging, workdir, name, codecs[name], source, shape, text_encoder)
        null_path = shards.root_of(workdir) / shards.NULL_CONTEXT_NAME
        with atomic_path(null_path) as temporary, open(temporary, "wb") as handle:
            np.save(handle, text_encoder([""])[0].astype(np.float16))
        known = finished.modalities if finished else ()
        order = [*known, *(name for name in todo if name not in known)]
        versions = {
            **(finished.codecs if finished else {}),
            **{name: codecs[name].version for name in todo},
        }
        card = shards.Card(
            count=len(source.keys),
            num_frames=num_frames,
            height=height,
            width=width,
            fps=source.fps,
            latent_shape=shape,
            vae=encoder.id,
            text_encoder=text_encoder.name,
            text_length=text_encoder.length,
            text_dim=text_encoder.dim,
            modalities=tuple(order),
            codecs=versions,
            settings={
                **(finished.settings if finished else {}),
                **settings,
                **{f"codec of {name}": version for name, version in versions.items()},
            },
        )
        shards.write_card(workdir, card)
        staging.remove()
    return card


def _finished(
    workdir: pathlib.Path, settings: dict[str, Any], codecs: Mapping[str, registry.Codec]
) -> shards.Card | None:
    if not (shards.root_of(workdir) / shards.CARD_NAME).exists():
        return None
    card = shards.read_card(workdir)
    # Series that an earlier version of the same codec drew stay as they are.
    settings = settings | {
        f"codec of {name}": card.codecs[name]
        for name, codec in codecs.items()
        if name in card.codecs and registry.reads(codec, card.codecs[name])
    }
    if changed := difference(card.settings, settings, shared_only=True):
        raise UserError(
            f"{workdir}: holds a finished dataset prepared with {changed}; give another --workdir, "
            "or the old value to add modalities"
        )
    return card


def _stage(
    staging: Staging,
    source: Source,
    encoder: LatentEncoder,
    text_encoder: TextEncoder,
    modalities: Sequence[str],
    batch_size: int,
) -> None:
    missing = staging.missing()
    total = len(source.keys)
    progress = Progress("encode", total, done=total - sum(map(len, missing)), compiles=True)
    for chunk in missing:
        batches = [
            _encode(
                source, encoder, text_encoder, modalities, chunk[n : n + batch_size], batch_size
            )
            for n in range(0, len(chunk), batch_size)
        ]
        staging.write(
            chunk, {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
        )
        progress.advance(len(chunk))


def _encode(
    source: Source,
    encoder: LatentEncoder,
    text_encoder: TextEncoder,
    modalities: Sequence[str],
    numbers: range,
    batch_size: int,
) -> dict[str, np.ndarray]:
    # A short last batch repeats its last clip, so that nothing compiles for another shape.
    padded = [*numbers, *[numbers[-1]] * (batch_size - len(numbers))]
    batch: ClipBatch = source.load(padded, modalities)
    count = len(numbers)
    arrays: dict[str, np.ndarray] = {"key": np.asarray([source.keys[n] for n in numbers])}
    for name in modalities:
        latents = np.asarray(encoder(batch.videos[name], name), np.float32)[:count].astype(
            np.float16
        )
        finite = np.isfinite(latents).all(axis=tuple(range(1, latents.ndim)))
        if not finite.all():
            raise UserError(
                f"clip {arrays['key'][np.argmin(finite)]}: the latents of {name} are not finite in "
                "float16; check --vae"
            )
        texts = list(batch.texts[name])[:count]
        arrays[f"{name}/latents"] = latents
        arrays[f"{name}/text"] = np.asarray(texts)
        arrays[f"{name}/embedding"] = text_encoder(texts).astype(np.float16)
        for key, value in batch.sides[name].items():
            arrays[f"{name}/side/{key}"] = np.asarray(value, np.float32)[:count]
    return arrays


def _pack(
    staging: Staging,
    workdir: pathlib.Path,
    name: str,
    codec: registry.Codec,
    source: Source,
    latent_shape: tuple[int, ...],
    text_encoder: TextEncoder,
) -> None:
    side = shards.side_shapes(codec)
    fields = ["latents", "text", "embedding", *(f"side/{key}" for key in side)]
    names = {field: f"{name}/{field}" for field in fields}

    def records() -> Iterator[dict[str, Any]]:
        for row in staging.rows(["key", *names.values()]):
            record: dict[str, Any] = {
                "key": str(row["key"]),
                "latents": row[names["latents"]],
                "text": str(row[names["text"]]),
                "embedding": row[names["embedding"]],
            }
            if side:
                record["side"] = {key: row[names[f"side/{key}"]] for key in side}
            yield record
            progress.advance(1)

    progress = Progress(f"pack {name}", len(source.keys))
    # TFDS leaves a series alone that is there already: it was renamed whole before a kill.
    shards.write_series(
        workdir,
        name,
        records,
        count=len(source.keys),
        latent_shape=latent_shape,
        embedding_shape=(text_encoder.length, text_encoder.dim),
        side_shapes=side,
    )
