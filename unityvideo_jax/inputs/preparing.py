"""Clips to latent shards: render or read, draw, encode, stage in chunks, pack."""

import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from unityvideo_jax import modalities as registry
from unityvideo_jax.errors import UserError
from unityvideo_jax.files import provenance
from unityvideo_jax.files.faults import reason_of
from unityvideo_jax.files.paths import atomic_path
from unityvideo_jax.inputs import shards, values
from unityvideo_jax.inputs.encode import LatentEncoder
from unityvideo_jax.inputs.kept import KeptClips
from unityvideo_jax.inputs.sources import ClipBatch, Source
from unityvideo_jax.inputs.staging import Progress, Staging, difference
from unityvideo_jax.models.sizes import PATCH, check_frames, check_pixels
from unityvideo_jax.models.text.encoder import CutTexts, TextEncoder
from unityvideo_jax.runtime import capacity

# If this many clips have faults and none can be read, something is wrong with all of them.
HOPELESS = 32

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
    allow_faults: bool = False,
    cropped: float = 0.0,
) -> shards.Card:
    """Writes latent shards, resuming where an earlier run of the same settings was killed.

    A finished dataset gains the modalities that it lacks, also those whose folder was deleted; one
    that lacks nothing is left alone. A clip that cannot be read does not stop the others: they are
    encoded and stored, so that the same command resumes once the clip is fixed or moved away.

    Args:
      source: clips, all of num_frames x height x width.
      encoder: video to latents.
      text_encoder: text to embeddings.
      workdir: the shards go to `<workdir>/latents/`.
      modalities: series to write, 'rgb' among them.
      num_frames, height, width: 4n+1 and multiples of 16 (with Wan 2.2's VAE of 32).
      chunk_size: clips per staged file, hence what a kill can cost.
      batch_size: clips that one VAE call encodes.
      extra_settings: further values that must agree on a resume, such as the flags' own.
      allow_faults: finish without the clips that cannot be read and list them in
        `<workdir>/set_aside.json`.
      cropped: as the card has it.

    Returns:
      The card of the finished dataset.

    Raises:
      UserError: bad sizes or modalities, a workdir of other settings, one in use, or, without
        allow_faults and after all other clips, clips that cannot be read.
    """
    size = (num_frames, height, width)
    shape = _checked_shape(encoder, size, chunk_size, batch_size)
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
        "num_frames": num_frames,
        "height": height,
        "width": width,
        "vae": encoder.id,
        "text_encoder": text_encoder.name,
        "text_length": text_encoder.length,
        **{f"codec of {name}": codec.version for name, codec in codecs.items()},
    }
    clips = KeptClips(source, modalities)
    finished = _finished(workdir, settings, codecs, clips)
    # A series that was deleted, because a file of it is corrupt, is written again.
    listed = finished.modalities if finished else ()
    have = [name for name in listed if shards.series_path(workdir, name).is_dir()]
    todo = [name for name in modalities if name not in have]
    if not finished and registry.RGB not in todo:
        raise UserError("--modalities lacks rgb, which every sample contains; add it")
    staging = Staging(workdir, {**settings, "modalities": todo, "batch_size": batch_size})
    if finished and not todo:
        print(f"{workdir}: complete already, {finished.count} clips of {', '.join(have)}")
        staging.remove()
        return finished
    with staging.locked():
        staging.check()
        staging.begin()
        report = CutTexts(text_encoder, f"--text_length={text_encoder.length}")
        if texts := source.texts(todo):
            report(text for name in todo for text in texts[name])
        for chunk in _chunks(staging, clips, todo, chunk_size):
            _stage(staging, clips, encoder, text_encoder, todo, chunk, batch_size)
            hopeless = not len(staging) and len(clips.faults) >= HOPELESS
            if hopeless and not allow_faults:
                break
        clips.check_faults(workdir, allow_faults and not finished)
        staging.remove_partial_series(todo)
        identities = clips.identities(todo)
        if not texts:
            names = [f"{name}/text" for name in todo]
            rows = staging.rows(identities, names)
            report(str(text) for row in rows for text in row.values())
        for name in todo:
            _pack(staging, workdir, name, codecs[name], clips, identities, shape, text_encoder)
        null_path = shards.root_of(workdir) / shards.NULL_CONTEXT_NAME
        with atomic_path(null_path) as temporary, open(temporary, "wb") as handle:
            np.save(handle, text_encoder([""])[0].astype(np.float16))
        known = finished.modalities if finished else ()
        order = [*known, *(name for name in todo if name not in known)]
        settings |= clips.settings()
        versions = {
            **(finished.codecs if finished else {}),
            **{name: codecs[name].version for name in todo},
        }
        card = shards.Card(
            count=len(clips.keys),
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
            null_context_sha256=provenance.file_hash(null_path),
            cropped=cropped,
        )
        shards.write_card(workdir, card)
        staging.remove()
    return card


def _checked_shape(
    encoder: LatentEncoder, size: tuple[int, int, int], chunk_size: int, batch_size: int
) -> tuple[int, ...]:
    """The shape of a clip's latents; raises UserError for sizes that cannot be encoded."""
    num_frames, height, width = size
    check_frames(num_frames, "--num_frames")
    check_pixels(height, "--height")
    check_pixels(width, "--width")
    if chunk_size < 1 or batch_size < 1:
        raise UserError("--chunk_size and --batch_size must be at least 1")
    capacity.check_host(
        batch_size * math.prod(size) * PIXEL_BYTES,
        f"--batch_size={batch_size} of {num_frames} frames of {height}x{width}",
        "encode fewer or smaller clips at once",
    )
    shape = encoder.latent_shape(*size)
    check_pixels(height, "--height", PATCH * height // shape[1])
    check_pixels(width, "--width", PATCH * width // shape[2])
    return shape


def _finished(
    workdir: pathlib.Path,
    settings: dict[str, Any],
    codecs: Mapping[str, registry.Codec],
    clips: KeptClips,
) -> shards.Card | None:
    if not (shards.root_of(workdir) / shards.CARD_NAME).exists():
        return None
    card = shards.read_card(workdir)
    clips.leave_out(workdir)
    # Series that an earlier version of the same codec drew stay as they are.
    settings = settings | {
        f"codec of {name}": card.codecs[name]
        for name, codec in codecs.items()
        if name in card.codecs and registry.reads(codec, card.codecs[name])
    }
    if changed := difference(card.settings, settings | clips.settings(), shared_only=True):
        raise UserError(
            f"{workdir}: holds a finished dataset prepared with {changed}; give another --workdir, "
            "or the old value to add modalities"
        )
    return card


def _chunks(
    staging: Staging, clips: KeptClips, modalities: Sequence[str], chunk_size: int
) -> Iterator[dict[str, str]]:
    """The clips that are not staged yet in chunks, identity by key; prints what is done of all."""
    total = len(clips.keys)
    pairs = zip(clips.keys, clips.identities(modalities), strict=True)
    missing = [(key, identity) for key, identity in pairs if identity not in staging]
    progress = Progress("encode", total, done=total - len(missing), compiles=True)
    for first in range(0, len(missing), chunk_size):
        chunk = dict(missing[first : first + chunk_size])
        yield chunk
        progress.advance(len(chunk))


def _stage(
    staging: Staging,
    clips: KeptClips,
    encoder: LatentEncoder,
    text_encoder: TextEncoder,
    modalities: Sequence[str],
    chunk: Mapping[str, str],
    batch_size: int,
) -> None:
    """Encodes and stores those of a chunk's clips that can be read."""
    keys = list(chunk)
    batches = [
        _encode(clips, encoder, text_encoder, modalities, keys[n : n + batch_size], batch_size)
        for n in range(0, len(keys), batch_size)
    ]
    if whole := [batch for batch in batches if batch]:
        arrays = {name: np.concatenate([b[name] for b in whole]) for name in whole[0]}
        identities = [chunk[key] for key in arrays.pop("key").tolist()]
        staging.write({"identity": np.asarray(identities), **arrays})


def _load(
    clips: KeptClips, keys: Sequence[str], modalities: Sequence[str], batch_size: int
) -> tuple[list[str], ClipBatch | None]:
    """The clips of these that can be read, and a full batch of them; the others are set aside."""
    # A short batch repeats its last clip, so that nothing compiles for another shape.
    numbers = [clips.numbers[key] for key in keys]
    padded = [*numbers, *numbers[-1:] * (batch_size - len(numbers))]
    try:
        return list(keys), clips.source.load(padded, modalities) if keys else None
    except Exception as error:
        if len(keys) == 1:
            clips.set_aside(keys[0], reason_of(error))
            return [], None
        failed = error
    good = [key for key in keys if _load(clips, [key], modalities, batch_size)[0]]
    if len(good) == len(keys):
        raise failed
    return _load(clips, good, modalities, batch_size)


def _encode(
    clips: KeptClips,
    encoder: LatentEncoder,
    text_encoder: TextEncoder,
    modalities: Sequence[str],
    keys: Sequence[str],
    batch_size: int,
) -> dict[str, np.ndarray]:
    """Arrays to stage of the clips that can be read; empty if none can."""
    keys, batch = _load(clips, keys, modalities, batch_size)
    if batch is None:
        return {}
    arrays: dict[str, np.ndarray] = {"key": np.asarray(keys)}
    faults: dict[str, str] = {}
    for name in modalities:
        latents = np.asarray(encoder(batch.videos[name], name), np.float32)[: len(keys)]
        arrays[f"{name}/latents"] = latents = latents.astype(np.float16)
        for key, one in zip(keys, latents, strict=True):
            if fault := values.fault(one, values.LARGEST_LATENT):
                faults.setdefault(key, f"the latents of {name} hold {fault}; check it and --vae")
        texts = list(batch.texts[name])[: len(keys)]
        arrays[f"{name}/text"] = np.asarray(texts)
        arrays[f"{name}/embedding"] = text_encoder(texts).astype(np.float16)
        for key, value in batch.sides[name].items():
            arrays[f"{name}/side/{key}"] = np.asarray(value, np.float32)[: len(keys)]
    for key, fault in faults.items():
        clips.set_aside(key, fault)
    good = np.array([key not in faults for key in keys])
    return {name: array[good] for name, array in arrays.items()} if good.any() else {}


def _pack(
    staging: Staging,
    workdir: pathlib.Path,
    name: str,
    codec: registry.Codec,
    clips: KeptClips,
    identities: Sequence[str],
    latent_shape: tuple[int, ...],
    text_encoder: TextEncoder,
) -> None:
    side = shards.side_shapes(codec)
    fields = ["latents", "text", "embedding", *(f"side/{key}" for key in side)]
    names = {field: f"{name}/{field}" for field in fields}

    def records() -> Iterator[dict[str, Any]]:
        rows = staging.rows(identities, list(names.values()))
        for key, row in zip(clips.keys, rows, strict=True):
            record: dict[str, Any] = {
                "key": key,
                "latents": row[names["latents"]],
                "text": str(row[names["text"]]),
                "embedding": row[names["embedding"]],
            }
            if side:
                record["side"] = {key: row[names[f"side/{key}"]] for key in side}
            yield record
            progress.advance(1)

    progress = Progress(f"pack {name}", len(identities))
    # TFDS leaves a series alone that is there already: it was renamed whole before a kill.
    shards.write_series(
        workdir,
        name,
        records,
        count=len(identities),
        latent_shape=latent_shape,
        embedding_shape=(text_encoder.length, text_encoder.dim),
        side_shapes=side,
    )
