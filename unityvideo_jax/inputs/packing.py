"""Clips of other layouts into TFDS records: OpenUni's tars, and folders of a benchmark's clips."""

import dataclasses
import json
import pathlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from unityvideo_jax import media, modalities
from unityvideo_jax.errors import UserError
from unityvideo_jax.files.faults import Fault, refuse, show, shown, write_faults
from unityvideo_jax.files.names import name_fault, safe_path
from unityvideo_jax.files.npz import is_npz, read_npz
from unityvideo_jax.inputs import clip_shards, openuni_tars, pictures
from unityvideo_jax.inputs.clip_shards import ClipCard, ClipFile
from unityvideo_jax.inputs.openuni_tars import Described
from unityvideo_jax.modalities import RGB

UNPACKED = ".unpacked"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clips:
    """One split of a dataset.

    Attributes:
      keys: its clips in order.
      files: paths by modality and clip.
      described: captions and metadata by clip.
      prompts: by clip and modality, where there is one.
    """

    keys: Sequence[str]
    files: Mapping[str, Mapping[str, pathlib.Path]]
    described: Mapping[str, Described]
    prompts: Mapping[tuple[str, str], str] = dataclasses.field(default_factory=dict)

    def records(self, modality: str) -> Iterator[ClipFile]:
        """Yields one modality's records, read one at a time.

        Raises:
          UserError: a folder of images, which a record cannot hold.
        """
        for key in self.keys:
            path = self.files[modality][key]
            if path.is_dir():
                raise UserError(
                    f"{path}: a folder of images, which one record cannot hold; write it as a "
                    "video or as .npz"
                )
            info = {} if is_npz(path) else _shape(media.video_info(path))
            rgb = modality == RGB
            yield ClipFile(
                key=key,
                text=self.described[key].caption if rgb else self.prompts.get((key, modality), ""),
                name=path.name,
                data=path.read_bytes(),
                metadata=self.described[key].metadata if rgb else "{}",
                **info,
            )

    def size(self, modality: str) -> int:
        """Bytes of one modality's files."""
        return sum(self.files[modality][key].stat().st_size for key in self.keys)


def write(
    workdir: pathlib.Path, dataset: str, subset: str, splits: Mapping[str, Clips], **settings: Any
) -> ClipCard:
    """Packs splits of clips into a dataset; series that are there already stay.

    Raises:
      UserError: no clips at all.
    """
    if not any(clips.keys for clips in splits.values()):
        raise UserError(f"{workdir}: no clip is left to pack")
    modalities = tuple(next(iter(splits.values())).files)

    def maker(clips: Clips, modality: str) -> Callable[[], Iterator[ClipFile]]:
        return lambda: clips.records(modality)

    for modality in modalities:
        for path in (workdir / dataset / modality).glob("*incomplete*"):
            shutil.rmtree(path)
        size = sum(clips.size(modality) for clips in splits.values())
        clip_shards.write_series(
            workdir,
            dataset,
            modality,
            {name: maker(clips, modality) for name, clips in splits.items()},
            num_bytes=size,
        )
        print(f"packed {modality}: {size / 1e6:.1f} MB", flush=True)
    card = ClipCard(
        dataset=dataset,
        subset=subset,
        counts={name: len(clips.keys) for name, clips in splits.items()},
        modalities=modalities,
        settings=settings,
    )
    clip_shards.write_card(workdir, card)
    return card


def pack_openuni(
    tars: pathlib.Path,
    workdir: pathlib.Path,
    *,
    subset: str,
    modalities: Sequence[str] = (),
    caption_column: str = "",
    allow_faults: bool = False,
) -> ClipCard:
    """Packs OpenUni's published tars of one subset as TFDS records, byte for byte.

    A killed run resumes at the first tar that it had not finished. Clips that lack a modality,
    metadata or frames are set aside, each with its reason, in `<workdir>/openuni/set_aside.json`.

    Args:
      tars: the root of the published layout; `openuni_tars` describes it.
      workdir: the TFDS data_dir; a subset has one of its own.
      subset: such as 'Koala36M'.
      modalities: what a clip must have, rgb among them; () takes all whose tars are there.
      caption_column: of the metadata; '' looks for a usual name.
      allow_faults: continue without the files of a broken tar.

    Raises:
      UserError: a missing folder or modality, metadata that does not fit, a broken tar, or a
        workdir that holds something else.
    """
    settings = {"modalities": list(modalities), "caption_column": caption_column}
    if finished := _finished(workdir, "openuni", subset, settings):
        return finished
    staging = workdir / "openuni" / UNPACKED
    splits, faults = {}, []
    for part in openuni_tars.find_subset(tars, subset):
        there = part.tars
        if lacking := [m for m in modalities if m not in there]:
            raise UserError(
                f"{part.path}: no tars of {', '.join(lacking)} (it has {', '.join(there)}); "
                "download them, or take them out of --modalities"
            )
        chosen = [RGB, *sorted(m for m in modalities or there if m != RGB)]
        files: dict[str, dict[str, pathlib.Path]] = {m: {} for m in chosen}
        broken = []
        for modality in chosen:
            for tar in there[modality]:
                stem = tar.name.partition(".tar")[0]
                folder = safe_path(staging, part.split, modality, stem, where=f"{tar}:")
                found, wrong = openuni_tars.unpack(tar, modality, folder)
                broken += [fault for fault in wrong if fault.what == str(tar)]
                faults += wrong
                for key, path in found.items():
                    if files[modality].setdefault(key, path) != path:
                        reason = f"clip {key} is also in {files[modality][key].parent.name}"
                        faults.append(Fault(what=f"{tar}: {path.name}", reason=reason))
                print(f"{tar}: {len(found)} files", flush=True)
        if broken and not allow_faults:
            raise UserError(
                f"{broken[0].what}: {broken[0].reason}"
                + (f" ({len(broken)} tars in all)" if len(broken) > 1 else "")
                + ", or pass --allow_faults to continue with what is whole"
            )
        everything = sorted(set().union(*files.values()))
        described, bad_rows = openuni_tars.describe(part.tables, everything, caption_column)
        whole, wrong = openuni_tars.join(files, described)
        faults += [*bad_rows, *wrong]
        splits[part.split] = Clips(keys=whole, files=files, described=described)
    file = write_faults(workdir / "openuni", faults)
    show(faults)
    print(f"set aside: {len(faults)}, see {file}", flush=True)
    card = write(workdir, "openuni", subset, splits, **settings, set_aside=len(faults))
    shutil.rmtree(staging)
    return card


def pack_benchmark(
    benchmark: pathlib.Path, workdir: pathlib.Path, *, allow_faults: bool = False
) -> ClipCard:
    """Packs a benchmark's folder of clips as TFDS records.

    Args:
      benchmark: folder that `python -m unityvideo_jax.unibench` wrote.
      workdir: the TFDS data_dir.
      allow_faults: leave out clips that are damaged or lack a stream that most clips have, and list
        them in `<workdir>/unibench/set_aside.json`.

    Raises:
      UserError: no clips, clips with faults, or a workdir that holds something else.
    """
    from unityvideo_jax.inputs.clip_folders import clips_of

    found = clips_of(benchmark, "benchmark")
    settings = {"clips": sorted(found)}
    if finished := _finished(workdir, "unibench", benchmark.name, settings):
        return finished
    streams = Counter(_streams(clip) for clip in found.values()).most_common(1)[0][0]
    clips, records, faults = {}, {}, []
    for name, clip in found.items():
        try:
            records[name] = _checked(clip, streams)
            clips[name] = clip
        except UserError as error:
            faults.append(Fault(what=shown(name), reason=str(error)))
    if faults and not (allow_faults and clips):
        refuse(faults, len(found), "fix or move it away, or pass --allow_faults to leave it out")
    if faults:
        show(faults)
        file = write_faults(workdir / "unibench", faults)
        print(f"set aside: {len(faults)}, see {file}", flush=True)
    packed = Clips(
        keys=sorted(clips),
        files={s: {n: clip.source(s) for n, clip in clips.items()} for s in streams},
        described={
            name: Described(caption=record.get("caption", ""), metadata=json.dumps(record))
            for name, record in records.items()
        },
        prompts={
            (name, modality): text
            for name, record in records.items()
            for modality, text in record.get("prompts", {}).items()
        },
    )
    return write(workdir, "unibench", benchmark.name, {"test": packed}, **settings)


def _streams(clip: Any) -> tuple[str, ...]:
    """The streams that a clip of a benchmark has, rgb first."""
    return tuple(s for s in (RGB, *modalities.metrics()) if clip.source(s) is not None)


def _checked(clip: Any, streams: Sequence[str]) -> dict[str, Any]:
    """The record of a clip whose files all read; UserError otherwise."""
    if fault := name_fault(clip.name):
        raise UserError(f"its name {fault}; rename it")
    if _streams(clip) != tuple(streams) or RGB not in streams:
        raise UserError(
            f"has {', '.join(_streams(clip)) or 'nothing'}, but most clips have "
            f"{', '.join(streams)}; every clip has the same streams, rgb among them"
        )
    files = {stream: clip.source(stream) for stream in streams}
    if "depth" in files and (beside := pictures.side_file(files["depth"])).exists():
        raise UserError(
            f"{beside.name}: states the unit beside {files['depth'].name}, which a record cannot "
            "hold; write `unit` into the npz and remove it"
        )
    for stream, path in files.items():
        if is_npz(path):
            metric = modalities.get(stream).metric
            read_npz(path, metric.keys if metric else (stream,))
    if reason := openuni_tars.mismatch(files):
        raise UserError(reason)
    return clip.record


def _shape(info: media.VideoInfo) -> dict[str, Any]:
    """What a record says of a video."""
    return {name: getattr(info, name) for name in ("fps", "num_frames", "height", "width")}


def _finished(
    workdir: pathlib.Path, dataset: str, subset: str, settings: Mapping[str, Any]
) -> ClipCard | None:
    card = clip_shards.find_card(workdir)
    if card is None:
        return None
    same = all(card.settings.get(name) == value for name, value in settings.items())
    if (card.dataset, card.subset) != (dataset, subset) or not same:
        raise UserError(
            f"{workdir}: holds {card.dataset}/{card.subset} packed with {card.settings}; give "
            "another --workdir"
        )
    print(f"{workdir}: complete already, {card.counts}", flush=True)
    return card
