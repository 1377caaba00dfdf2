"""The whole job: videos to clips, annotations, latent shards, manifest, statistics and page."""

import collections
import json
import os
import pathlib
import shlex
import time
from collections.abc import Mapping, Sequence
from typing import Any

from unityvideo_jax import modalities
from unityvideo_jax.curation import manifest, page, phases, registry, runner
from unityvideo_jax.curation.beam import Beam
from unityvideo_jax.curation.journal import Journal
from unityvideo_jax.curation.stage import Clip, Collective, Job, Stage
from unityvideo_jax.errors import UserError
from unityvideo_jax.inputs import shards
from unityvideo_jax.inputs.encode import load_encoder
from unityvideo_jax.inputs.folder import FolderSource
from unityvideo_jax.inputs.preparing import prepare
from unityvideo_jax.models.sizes import check_pixels
from unityvideo_jax.pretrained.text import load_text_encoder


def curate(config: Any, *, source: str, workdir: str | os.PathLike) -> dict[str, shards.Card]:
    """Runs or resumes the job that a configuration such as `configs/openuni_local.py` describes.

    Args:
      config: `stages` and the parameters of each, `encode`, `num_workers`, `beam` and `page`.
      source: folder of videos, searched with all its subfolders.
      workdir: everything is written below it.

    Returns:
      The card of each group's shards; one of name '' if there are no groups.

    Raises:
      UserError: a bad configuration or folder, or no clip that passes all stages.
    """
    stages = registry.build(config)
    encode = config.encode
    check_pixels(encode.height, "config.encode.height")
    check_pixels(encode.width, "config.encode.width")
    cut = next((stage for stage in stages if stage.name == "cut"), None)
    if cut is None or stages[0].name != "probe":
        raise UserError("config.stages: 'probe' must come first, and 'cut' must be among them")
    job = Job(source=os.fspath(source), workdir=os.fspath(workdir))
    pathlib.Path(workdir).mkdir(parents=True, exist_ok=True)
    for stage in stages:
        if isinstance(stage, Stage):
            stage.list_unused(job)
    mapper = Beam(options=tuple(shlex.split(config.beam))) if config.beam else None
    clips = list(
        runner.run_job(stages, job, num_workers=config.num_workers, mapper=mapper).values()
    )
    manifest.write(workdir, clips)
    record = manifest.statistics(clips, stages, timings(job, stages))
    begun = time.monotonic()
    accepted = [clip for clip in clips if not clip.rejected_by]
    cards = encode_groups(accepted, job, encode, cut.num_frames)
    record["encode"] = {"clips": len(accepted), "seconds_of_last_run": _seconds(begun)}
    record["train"] = train_flags(cards, workdir)
    manifest.write_statistics(workdir, record)
    print(f"{page.write(job, clips, record, config.page.max_clips)}: {_summary(record)}")
    if not accepted:
        raise UserError(
            f"--source={source}: no clip passes all stages; {workdir}/index.html says why"
        )
    return cards


def _seconds(begun: float) -> float:
    return round(time.monotonic() - begun, 1)


def _summary(record: Mapping[str, Any]) -> str:
    text = f"{record['clips']} clips of {record['videos']} videos, {record['rejected']} set aside"
    if record["failures"]:
        text += f", {record['failures']} of them by stages that failed: see their reasons"
    return text


def timings(job: Job, stages: Sequence[Stage | Collective]) -> dict[str, tuple[int, float]]:
    """Counts (clips that entered, seconds) of every stage, over all runs of the job."""
    seen: collections.Counter[str] = collections.Counter()
    seconds: collections.Counter[str] = collections.Counter()
    for phase in phases.split(stages):
        path = runner.journal_path(job, phase)
        if phase.stages and path.exists():
            for line in Journal(path, phase.settings).lines():
                seen.update(line["seen"])
                seconds.update(line["seconds"])
    return {name: (seen[name], float(seconds[name])) for name in seen}


def encode_groups(
    clips: Sequence[Clip], job: Job, encode: Any, num_frames: int
) -> dict[str, shards.Card]:
    """Writes latent shards of every group: `<workdir>/<group>/latents`, or `<workdir>/latents`.

    A group stores the modalities that all of its clips have; one that is annotated later is added
    to its shards by the same call.
    """
    if not clips:
        return {}
    encoder = load_encoder(encode.vae)
    texts = load_text_encoder(encode.text_encoder, encode.text_length)
    groups: dict[str, list[Clip]] = {}
    for clip in clips:
        groups.setdefault(clip.group, []).append(clip)
    cards = {}
    for group, members in sorted(groups.items()):
        names = _common(group, members)
        folder = FolderSource(
            job.clips,
            names,
            num_frames=num_frames,
            height=encode.height,
            width=encode.width,
            keys=[clip.key for clip in members],
            allow_faults=True,
        )
        cards[group] = prepare(
            folder,
            encoder,
            texts,
            workdir=pathlib.Path(job.workdir) / group,
            modalities=names,
            num_frames=num_frames,
            height=encode.height,
            width=encode.width,
            chunk_size=encode.chunk_size,
            batch_size=encode.batch_size,
            extra_settings={"source": "folder"},
            allow_faults=True,
        )
    return cards


def _common(group: str, clips: Sequence[Clip]) -> list[str]:
    """RGB and the modalities that all the clips have, in the registry's order."""
    counts = collections.Counter(name for clip in clips for name in clip.modalities)
    wanted = clips[0].wanted or tuple(counts)
    for name in wanted:
        if counts[name] < len(clips):
            print(
                f"{group or 'all clips'}: {name} is annotated in {counts[name]} of {len(clips)} "
                "clips, so it is not stored"
            )
    return ["rgb", *(n for n in modalities.names() if n in wanted and counts[n] == len(clips))]


def train_flags(cards: Mapping[str, shards.Card], workdir: str | os.PathLike) -> str:
    """The flags by which training draws from every group equally."""
    folders = tuple(str(pathlib.Path(workdir) / group) for group in cards)
    return f"--config.data.dirs={json.dumps(folders).replace('[', '(').replace(']', ',)')}"
