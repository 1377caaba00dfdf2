"""JSON of others that is damaged, means two things, or holds what no program of ours writes."""

import json
import pathlib

from tests.faults.harness import Case
from unityvideo_jax.curation.journal import Journal
from unityvideo_jax.curation.stage import Clip, Outcome
from unityvideo_jax.evaluation.benchmarks import real_clips
from unityvideo_jax.inputs import clip_folders, clip_shards, shards
from unityvideo_jax.inputs.records import Records
from unityvideo_jax.inputs.staging import Staging

DAMAGE = {
    "deep": b'{"a":' * 200_000,
    "deep list": b"[" * 200_000,
    "NaN": b'{"a": NaN}',
    "infinite": b'{"a": 1e999}',
    "twice": b'{"a": 1, "a": 2}',
    "many digits": b'{"a": ' + b"9" * 5000 + b"}",
    "no UTF-8": b'{"a": "\xff\xfe"}',
    "list": b"[]",
    "text": b'"a"',
    "half": b'{"a": ',
    "empty": b"",
    "zeros": bytes(100),
}


def _clip_json(path: pathlib.Path) -> object:
    return clip_folders.Clip(path=path.parent).record


def _journal(path: pathlib.Path) -> object:
    path.write_bytes(path.read_bytes() + b"\n")
    return Journal(path, {"b": 1})


READERS = {
    "latents/dataset.json": lambda path: shards.read_card(path.parent.parent),
    "openuni/clips.json": lambda path: clip_shards.find_card(path.parent.parent),
    "latents/.staging/settings.json": lambda path: Staging(path.parents[2], {}).check(),
    "dataset_info.json": lambda path: Records(path.parent, "latents", "train", None, "fix it"),
    "clip/clip.json": _clip_json,
    "clip/sample.json": lambda path: clip_folders.Clip(path=path.parent).streams,
    "real.json": lambda path: real_clips.read_card(path.parent),
    "journal.jsonl": _journal,
}


def _json(name: str, content: bytes):
    def act(folder: pathlib.Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        READERS[name](path)

    return act


VALUES = {
    "clip/clip.json": (
        {"fps": "8"}, {"fps": 0}, {"fps": -1}, {"fps": True}, {"fps": 10**30},
        {"caption": ["a"]}, {"prompts": [1]}, {"prompts": {"depth": 3}},
    ),
    "clip/sample.json": ({"request": 3}, {"request": {"wanted": 7}}),
    "real.json": ({}, {"files": 3}, {"files": {"a": 3}}),
    "openuni/clips.json": (
        {},
        {"dataset": "../..", "subset": "", "counts": {}, "modalities": [], "settings": {}},
        {"dataset": "openuni", "subset": "", "counts": 3, "modalities": [], "settings": {}},
    ),
    "dataset_info.json": (
        {"splits": 3}, {"splits": []}, {"splits": [{"name": "train", "shardLengths": ["x"]}]},
        {"splits": [{"name": "train", "shardLengths": ["-1"]}]},
        {"splits": [{"name": "train", "shardLengths": ["1", str(10**30)]}]},
    ),
}  # fmt: skip
CASES = [
    *(
        Case(kind="JSON", name=f"{name} {what}", act=_json(name, content), says=(name,))
        for name in READERS
        for what, content in DAMAGE.items()
        if (name, what) != ("journal.jsonl", "empty")
    ),
    *(
        Case(kind="JSON", name=f"{name} {value}", says=(name,),
             act=_json(name, json.dumps(value).encode()))
        for name, values in VALUES.items()
        for value in values
    ),
]  # fmt: skip
CARD = {
    "format": 1, "count": 3, "num_frames": 1, "height": 16, "width": 16, "fps": 8.0,
    "latent_shape": [1, 2, 2, 4], "vae": "", "text_encoder": "", "text_length": 3, "text_dim": 5,
    "modalities": ["rgb"], "codecs": {}, "settings": {},
}  # fmt: skip
CASES += [
    Case(kind="JSON", name=f"dataset.json {key}={value}", says=("dataset.json", "prepare"),
         act=_json("latents/dataset.json", json.dumps(CARD | {key: value}).encode()))
    for key, value in (
        ("null_context", "../../secret.npy"), ("null_context", "/etc/passwd"), ("count", -1),
        ("count", "3"), ("latent_shape", [1]), ("latent_shape", [1, 2, 2, 0]), ("height", None),
        ("latent_shape", "1224"), ("fps", 0), ("modalities", [3]), ("extra", 1), ("vae", 3),
    )
]  # fmt: skip


def _journal_line(line: bytes):
    """A curation's journal with a damaged line: that clip alone is done again."""

    def act(folder: pathlib.Path) -> None:
        path = folder / "curation" / "a.jsonl"
        journal = Journal(path, {"b": 1})
        clips = [Clip(key=f"clip{n}", video="a.mp4") for n in range(3)]
        for clip in clips:
            journal.add(clip.key, Outcome(clips=[clip]))
        head, first, _, last = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join([head, first, line + b"\n", last]))
        found = [one["key"] for one in Journal(path, {"b": 1}).lines()]
        assert found == ["clip0", "clip2"], found

    return act


CASES += [
    Case(kind="JSON", name=f"line of a journal {what}", act=_journal_line(line))
    for what, line in {
        **DAMAGE,
        "of other keys": b'{"key": "a"}',
        "of other types": b'{"key": 1, "clips": 2, "seconds": 3, "seen": 4}',
        "with a clip of other keys": b'{"key":"a","clips":[{"a":1}],"seconds":{},"seen":{}}',
    }.items()
    if b"\n" not in line
]
