"""What a user asks of the sampler, from flags or from a batch file."""

import dataclasses
import json
import os
import pathlib
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from unityvideo_jax.errors import UserError
from unityvideo_jax.files import paths, text_files
from unityvideo_jax.files.names import safe_name
from unityvideo_jax.modalities import RGB
from unityvideo_jax.runtime import seeds

MODES = ("joint", "control", "estimation")
KEYS = (
    "name",
    "mode",
    "modality",
    "input",
    "given",
    "wanted",
    "first_frame",
    "prompt",
    "modality_prompt",
    "seed",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """One sample to make.

    Attributes:
      name: folder of its outputs, "" for the output folder itself; else as `safe_name` allows.
      given: path of the file or folder of each given stream.
      wanted: streams to sample.
      first_frame: path of the image that the sampled RGB starts with; "" for none.
      prompt: caption of the RGB video; "" for none.
      modality_prompts: replaces the in-context prompt of a modality.
      seed: of this sample.
    """

    name: str
    given: dict[str, str]
    wanted: tuple[str, ...]
    first_frame: str
    prompt: str
    modality_prompts: dict[str, str]
    seed: int


def build(
    *,
    where: str,
    name: str = "",
    mode: str = "",
    modality: Sequence[str] = (),
    input: str = "",
    given: Mapping[str, str] | None = None,
    wanted: Sequence[str] = (),
    first_frame: str = "",
    prompt: str = "",
    modality_prompt: str | Mapping[str, str] = "",
    seed: int = 0,
) -> Request:
    """A request from either `mode` (with modality and input) or `given` and `wanted`.

    Args:
      where: what an error message calls the source: "flags", or file and line.
      mode: "joint" wants RGB and the modalities; "control" is given one modality's `input` and
        wants RGB; "estimation" is given RGB `input` and wants the modalities.
      first_frame: image (or video, whose first frame is taken) that the wanted RGB starts with.
      modality_prompt: a text for the only modality of the request, or one by name.

    Raises:
      UserError: the parts do not make a request; names `where` and the part.
    """
    modality = tuple(modality)
    given, wanted = dict(given or {}), tuple(wanted)
    if bool(mode) == bool(given or wanted):
        raise UserError(f"{where}: give either a mode or given/wanted streams")
    if mode:
        if mode not in MODES:
            raise UserError(f"{where}: unknown mode {mode!r}; choose one of {', '.join(MODES)}")
        if not modality or RGB in modality:
            raise UserError(f"{where}: mode {mode} needs a modality other than rgb, such as depth")
        if (mode == "joint") == bool(input):
            fault = "takes no input" if mode == "joint" else "needs an input"
            raise UserError(f"{where}: mode {mode} {fault} (a video or an image folder)")
        if mode == "joint":
            wanted = (RGB, *modality)
        elif mode == "estimation":
            given, wanted = {RGB: input}, modality
        elif len(modality) != 1:
            raise UserError(f"{where}: several controls need given={{...}} and wanted=rgb")
        else:
            given, wanted = {modality[0]: input}, (RGB,)
    elif input or modality:
        raise UserError(f"{where}: input and modality belong to a mode; use given and wanted alone")
    if not wanted:
        raise UserError(f"{where}: no stream is wanted; name at least one modality")
    if first_frame and RGB not in wanted:
        raise UserError(f"{where}: first_frame is of the sampled rgb, and rgb is not wanted here")
    streams = [s for s in (*given, *wanted) if s != RGB]
    if isinstance(modality_prompt, str):
        if modality_prompt and len(streams) != 1:
            raise UserError(
                f"{where}: modality_prompt is for one modality but there are {len(streams)} "
                f"({', '.join(streams)}); give it by name"
            )
        prompts = {streams[0]: modality_prompt} if modality_prompt else {}
    else:
        prompts = dict(modality_prompt)
        for key in prompts:
            if key not in streams:
                raise UserError(f"{where}: modality_prompt for {key!r}, which is no stream here")
    for text in (prompt, *prompts.values()):
        text_files.check_text(text, f"{where}: prompt {text[:40]!a}")
    if name:
        safe_name(name, f"{where}: name")
    return Request(
        name=name,
        given=given,
        wanted=wanted,
        first_frame=first_frame,
        prompt=prompt,
        modality_prompts=prompts,
        seed=seed,
    )


def parse_pairs(pairs: Sequence[str], where: str) -> dict[str, str]:
    """Parses ["depth=a.mp4"] to {"depth": "a.mp4"}."""
    result = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not (separator and key and value):
            raise UserError(f"{where}: {pair!r} is not of the form modality=value")
        result[key] = value
    return result


def read_batch_file(path: str | os.PathLike, default_seed: int) -> list[Request]:
    """Requests of a JSONL file: per line an object with keys of `KEYS`, all optional but the task.

    "modality" and "wanted" are a name or a list of names, "given" maps names to paths (relative
    ones to the batch file's folder, as are "input" and "first_frame"), "modality_prompt" is a text
    or maps names to texts. Without a "seed" a request takes the default seed plus its place,
    without a "name" its place. A name becomes a folder, so it must be one on any system, and names
    that differ in case or in how accents are composed alone count as equal.

    Raises:
      UserError: unreadable file, no request, bad JSON, unknown key, a wrong type, or a name that is
        no folder's or there twice; names the line.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such batch file; give a JSONL file")
    requests: list[Request] = []
    places: dict[str, str] = {}
    for where, entry in text_files.read_json_lines(path):
        request = _from_entry(entry, where, path.parent, len(requests), default_seed)
        folder = unicodedata.normalize("NFC", request.name).casefold()
        if earlier := places.get(folder):
            raise UserError(
                f"{where}: its name {request.name!r} is the folder of {earlier} too (case does not "
                "count); give each its own name"
            )
        places[folder] = where
        requests.append(request)
    if not requests:
        raise UserError(f"{path}: holds no request; write one JSON object per line")
    return requests


def _from_entry(entry: Any, where: str, folder: pathlib.Path, place: int, seed: int) -> Request:
    if not isinstance(entry, dict):
        raise UserError(f"{where}: not a JSON object; write {{...}}")
    unknown = sorted(set(entry) - set(KEYS))
    if unknown:
        raise UserError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(KEYS)}")
    entry = {"name": f"{place:04d}", "seed": seeds.after(seed, place)} | entry
    for key in ("modality", "wanted"):
        if isinstance(entry.get(key), str):
            entry[key] = [entry[key]]
    kinds = {"modality": list, "wanted": list, "given": dict, "seed": int}
    for key, value in entry.items():
        kind = kinds.get(key, (str, dict) if key == "modality_prompt" else str)
        texts = value.values() if isinstance(value, dict) else value
        inner = isinstance(value, list | dict) and not all(isinstance(t, str) for t in texts)
        if not isinstance(value, kind) or isinstance(value, bool) or inner:
            raise UserError(f"{where}: {key} has the wrong type: {json.dumps(value)}")
    seeds.check(entry["seed"], f"{where}: seed")
    for key in ("input", "first_frame"):
        if entry.get(key):
            entry[key] = str(folder / paths.expand(entry[key]))
    if "given" in entry:
        entry["given"] = {k: str(folder / paths.expand(v)) for k, v in entry["given"].items()}
    return build(where=where, **entry)
