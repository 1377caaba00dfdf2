"""Requests of a user to the sampler, from flags or from a batch file."""

import dataclasses
import json
import os
import pathlib
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from unityvideo_jax import modalities
from unityvideo_jax.errors import UserError
from unityvideo_jax.files import paths, stores, text_files
from unityvideo_jax.files.names import safe_name
from unityvideo_jax.modalities import RGB
from unityvideo_jax.models.dit import DiTConfig
from unityvideo_jax.runtime import seeds
from unityvideo_jax.sampling import arguments
from unityvideo_jax.sampling.control import Control
from unityvideo_jax.sampling.generate import SamplerConfig
from unityvideo_jax.sampling.streams import stream_groups, stream_order

MODES = ("joint", "control", "estimation")
KEYS = (
    "name",
    "mode",
    "modality",
    "input",
    "given",
    "wanted",
    "first_frame",
    "last_frame",
    "masks",
    "weights",
    "strength",
    "prompt",
    "negative_prompt",
    "modality_prompt",
    "sampler",
    "seed",
)

NUMBER = (int, float)
# Types of a batch file's values, and of what lists and objects among them hold; texts if left out.
KINDS = {
    "modality": (list, str),
    "wanted": (list, str),
    "given": (dict, str),
    "masks": ((str, dict), str),
    "weights": ((*NUMBER, dict), NUMBER),
    "strength": (NUMBER, None),
    "modality_prompt": ((str, dict), str),
    "sampler": (dict, object),
    "seed": (int, None),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """One sample to make.

    Attributes:
      name: folder of its outputs, "" for the output folder itself; else as `safe_name` allows.
      given: path of the file or folder of each given stream.
      wanted: streams to sample.
      first_frame, last_frame: path of the image that the sampled RGB starts or ends with; "" for
        none.
      masks: path of the mask of each given stream that has one.
      weights: how much each given stream counts, where it is not 1.
      strength: of video to video, or None.
      prompt: caption of the RGB video; "" for none.
      negative_prompt: what text guidance leads away from; "" for none.
      modality_prompts: replaces the in-context prompt of a modality.
      sampler: settings of `SamplerConfig` that differ from those of the others.
      seed: of this sample.
    """

    name: str
    given: dict[str, str]
    wanted: tuple[str, ...]
    first_frame: str
    last_frame: str
    masks: dict[str, str]
    weights: dict[str, float | int]
    strength: float | int | None
    prompt: str
    negative_prompt: str
    modality_prompts: dict[str, str]
    sampler: dict[str, Any]
    seed: int

    @property
    def sources(self) -> tuple[str, ...]:
        """Paths of all that it reads."""
        paths = (*self.given.values(), *self.masks.values(), self.first_frame, self.last_frame)
        return tuple(path for path in paths if path)

    def check(self, model: DiTConfig, sampler: SamplerConfig) -> None:
        """Raises UserError, which names the request, for what a call cannot do with any file.

        Args:
          model: that samples.
          sampler: its settings for this request.
        """
        given = tuple(self.given)
        control = Control(
            first_frame=self.first_frame or None,
            last_frame=self.last_frame or None,
            masks=self.masks,
            weights=self.weights,
            strength=self.strength,
            negative_prompt=self.negative_prompt,
        )
        try:
            streams = stream_order(tuple(dict.fromkeys((*given, *self.wanted))), model.modalities)
            control.check(given, self.wanted, model, sampler, (self.prompt,))
            stream_groups(streams, given, self.wanted, sampler.separate)
        except UserError as error:
            raise UserError(f"request {self.name}: {error}" if self.name else str(error)) from error


def check_read(
    requests: Sequence[Request],
    samplers: Sequence[SamplerConfig],
    flags: Collection[str],
    drops_prompts: bool,
) -> None:
    """Raises UserError for a setting that nothing reads: of one request, or the flags' of any.

    Args:
      requests: all of them.
      samplers: the settings of each.
      flags: names of the settings that flags give.
      drops_prompts: whether guidance compares with no modality prompts either.
    """
    found = [
        arguments.unread(
            sampler,
            given=one.given,
            wanted=one.wanted,
            counted=bool(one.masks or one.weights),
            texts=(one.prompt, one.negative_prompt),
            drops_prompts=drops_prompts,
        )
        for one, sampler in zip(requests, samplers, strict=True)
    ]
    for one, reasons in zip(requests, found, strict=True):
        for name in filter(reasons.get, one.sampler):
            value = one.sampler[name]
            raise UserError(f"request {one.name}: {name}={value}: {reasons[name]}")
    for name in flags:
        if all(name in reasons for reasons in found):
            raise UserError(f"--{name}: {found[0][name]}")


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
    last_frame: str = "",
    masks: str | Mapping[str, str] = "",
    weights: float | int | Mapping[str, float | int] | None = None,
    strength: float | int | None = None,
    prompt: str = "",
    negative_prompt: str = "",
    modality_prompt: str | Mapping[str, str] = "",
    sampler: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Request:
    """Makes a request from either `mode` (with modality and input) or `given` and `wanted`.

    Args:
      where: name of the source in error messages: "flags", or file and line.
      name, prompt, seed: as `Request` has them.
      mode: "joint" wants RGB and the modalities; "control" is given one modality's `input` and
        wants RGB; "estimation" is given RGB `input` and wants the modalities.
      first_frame, last_frame: image (or video, whose first frame is taken) that the wanted RGB
        starts or ends with.
      masks, weights: of the only given stream, or by name.
      strength, negative_prompt, sampler: as `Request` has them.
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
    for role, image in (("first_frame", first_frame), ("last_frame", last_frame)):
        if image and RGB not in wanted:
            raise UserError(f"{where}: {role} is of the sampled rgb, and rgb is not wanted here")
    masks = _by_name("masks", masks, given, where) if masks else {}
    weights = _by_name("weights", weights, given, where) if weights is not None else {}
    streams = [s for s in dict.fromkeys((*given, *wanted)) if s != RGB]
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
    for text in (prompt, negative_prompt, *prompts.values()):
        text_files.check_text(text, f"{where}: prompt {text[:40]!a}")
    if name:
        safe_name(name, f"{where}: name")
    return Request(
        name=name,
        given=given,
        wanted=wanted,
        first_frame=first_frame,
        last_frame=last_frame,
        masks=masks,
        weights=weights,
        strength=strength,
        prompt=prompt,
        negative_prompt=negative_prompt,
        modality_prompts=prompts,
        sampler=dict(sampler or {}),
        seed=seed,
    )


def _by_name(key: str, value: Any, given: Mapping[str, str], where: str) -> dict[str, Any]:
    """What belongs to given streams, by their names."""
    if not isinstance(value, Mapping):
        if len(given) != 1:
            raise UserError(
                f"{where}: {key} is for one given stream but there are {len(given)}; give it by "
                "name"
            )
        return {next(iter(given)): value}
    for name in value:
        if name not in given:
            raise UserError(f"{where}: {key} for {name!r}, which is no given stream here")
    return dict(value)


def parse_named(values: Sequence[str], where: str) -> str | dict[str, str]:
    """Returns one value without a name, or values by name: "a.png" or {"rgb": "a.png"}."""
    known = modalities.names()
    if len(values) == 1 and values[0].partition("=")[0] not in known:
        return values[0]
    return parse_pairs(values, where)


def parse_pairs(pairs: Sequence[str], where: str) -> dict[str, str]:
    """Parses ["depth=a.mp4"] to {"depth": "a.mp4"}.

    Raises:
      UserError: a pair without `=`.
    """
    result = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not (separator and key and value):
            raise UserError(f"{where}: {pair!r} is not of the form modality=value")
        result[key] = value
    return result


def read_batch_file(path: str | os.PathLike, default_seed: int) -> list[Request]:
    """Reads a JSONL file: per line an object with keys of `KEYS`, all but the task optional.

    "modality" and "wanted" are a name or a list of names, "given" maps names to paths, "masks" and
    "weights" are a path and a number of the only given stream or map names to them,
    "modality_prompt" is a text or maps names to texts, "sampler" maps settings of `SamplerConfig`
    to values. Relative paths start at the batch file's folder. Without a "seed" a request takes the
    default seed plus its place, without a "name" its place. A name becomes a folder, so it must be
    one on any system, and names that differ in case or in how accents are composed alone count as
    equal.

    Raises:
      UserError: unreadable file, no request, bad JSON, unknown key, a wrong type, or a name that is
        no folder's or there twice; names the line.
    """
    path = stores.local(path)
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
    for key, value in entry.items():
        kind, inner = KINDS.get(key, (str, str))
        within = value.values() if isinstance(value, dict) else value
        fits = not isinstance(value, list | dict) or all(_is(one, inner) for one in within)
        if not _is(value, kind) or not fits:
            raise UserError(f"{where}: {key} has the wrong type: {json.dumps(value)}")
    seeds.check(entry["seed"], f"{where}: seed")

    def placed(path: str | dict[str, str]) -> str | dict[str, str]:
        if isinstance(path, dict):
            return {name: placed(one) for name, one in path.items()}
        path = paths.expand(path)
        return path if not path or stores.url(path) else str(folder / path)

    files = ("input", "given", "masks", "first_frame", "last_frame")
    entry |= {key: placed(entry[key]) for key in files if key in entry}
    return build(where=where, **entry)


def _is(value: Any, kind: Any) -> bool:
    """An instance; a switch is no number."""
    return isinstance(value, kind) and (kind is object or not isinstance(value, bool))
