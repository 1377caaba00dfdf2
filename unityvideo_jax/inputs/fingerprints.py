"""Fingerprints of a run's data, VAE and text encoder, whatever their paths."""

import hashlib
import json
import os
import pathlib
from collections.abc import Collection

from unityvideo_jax.errors import UserError
from unityvideo_jax.files import provenance
from unityvideo_jax.inputs import shards
from unityvideo_jax.inputs.config import DataConfig
from unityvideo_jax.inputs.encode import ID_LENGTH, vae_id_or_none
from unityvideo_jax.inputs.sized import folders_of
from unityvideo_jax.modalities import RGB

# None where there is nothing to read, such as weights that a run on shards does not need.
Fingerprint = str | tuple[str, ...] | None


def fingerprints(config: DataConfig) -> dict[str, Fingerprint]:
    """Fingerprints by the key of the configuration that names the path.

    Args:
      config: of the run; the series of its drawn modalities are read, others may come and go.

    Raises:
      UserError: a folder without finished shards.
    """
    drawn = {RGB, *(name for name, weight in config.modality_weights.items() if weight)}
    folders = [folder for directory in config.dirs for folder in folders_of(directory)]
    of_data = tuple(_of_shards(folder, drawn) for folder in folders)
    return {
        "data.dirs": of_data if config.kind == "shards" else None,
        "data.vae": vae_id_or_none(config.vae),
        "data.text_encoder": _of_text_encoder(config.text_encoder),
    }


def _of_shards(directory: str | os.PathLike, modalities: Collection[str]) -> str:
    """Changes with every record, their order and the codecs, not with the folder's place."""
    card = shards.read_card(directory)
    names = [name for name in card.modalities if name in modalities]
    content = {"count": card.count, "latent_shape": card.latent_shape, "vae": card.vae}
    content |= {"text": [card.text_encoder, card.text_length, card.text_dim], "fps": card.fps}
    content["codecs"] = {name: card.codecs.get(name) for name in names}
    files = [shards.root_of(directory) / card.null_context]
    for name in names:
        files += sorted(shards.series_path(directory, name).glob("*array_record*"))
    try:
        content["files"] = provenance.sampled_hash(files)
    except OSError as error:
        raise UserError(f"{error.filename}: does not read ({error}); restore it") from error
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:ID_LENGTH]


def _of_text_encoder(name: str) -> str | None:
    kind, _, folder = name.partition(":")
    if kind != "umt5":
        return name  # it ships with a package, and has no place
    from unityvideo_jax.interop.umt5 import find_umt5

    try:
        tokens, weights = find_umt5(folder)
    except UserError:
        return None
    files = _files(tokens)
    if weights != tokens:
        files += _files(weights) if weights.is_dir() else [weights]
    return f"umt5 {provenance.sampled_hash(files)[:ID_LENGTH]}"


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(file for file in folder.iterdir() if file.is_file())
