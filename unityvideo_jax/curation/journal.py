"""The finished clips of a phase: one line of JSON per clip, appended; half a line is nothing."""

import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from unityvideo_jax.curation.stage import Clip, Outcome
from unityvideo_jax.errors import UserError
from unityvideo_jax.files import strict_json
from unityvideo_jax.files.paths import atomic_path
from unityvideo_jax.inputs.staging import difference


class Journal:
    """The finished clips of one phase.

    Line 1 holds the settings that the results depend on, every other line a clip that went in and
    its results: {"key", "clips": rows, "seconds", "seen"}.
    """

    def __init__(self, path: pathlib.Path, settings: Mapping[str, Any]):
        """Opens a journal, or begins one.

        A torn last line, left by a kill, is cut off; other damaged lines are taken out and counted,
        and their clips are done again.

        Raises:
          UserError: a journal of other settings is there, or its first line is damaged.
        """
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.touch()
        with open(path, "rb+") as handle:
            whole = handle.read().rfind(b"\n") + 1
            handle.truncate(whole)
        if not whole:
            self._append(dict(settings))
        stored = self._check()
        if changed := difference(stored, settings):
            raise UserError(
                f"{path}: was begun with {changed}; give the old value, delete this file and those "
                "after it to do the work again, or give another --workdir"
            )

    def _check(self) -> dict[str, Any]:
        """The settings, after damaged lines are taken out."""
        head, *lines = self._path.read_bytes().splitlines(keepends=True)
        fix = "delete this file and those after it to do the work again"
        settings = strict_json.as_object(
            strict_json.parse(head, f"{self._path}, line 1", fix), str(self._path), fix
        )
        whole = [text for text in lines if is_whole(text)]
        if len(whole) < len(lines):
            first = next(n for n, text in enumerate(lines, start=2) if not is_whole(text))
            print(
                f"{self._path}: {len(lines) - len(whole)} damaged lines are taken out, the first "
                f"is line {first}; their clips are done again",
                flush=True,
            )
            with atomic_path(self._path) as temporary:
                temporary.write_bytes(b"".join([head, *whole]))
        return settings

    def _append(self, line: Mapping[str, Any]) -> None:
        with open(self._path, "a") as handle:
            handle.write(json.dumps(line, separators=(",", ":")) + "\n")
            handle.flush()
            os.fsync(handle.fileno())

    def add(self, key: str, outcome: Outcome) -> None:
        """Records that the clip of this key is finished."""
        self._append(line(key, outcome))

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yields every finished clip's line; a key that is there twice counts once."""
        seen = set()
        with open(self._path) as handle:
            handle.readline()
            for text in handle:
                found = json.loads(text)
                if found["key"] not in seen:
                    seen.add(found["key"])
                    yield found


def is_whole(text: str | bytes) -> bool:
    """Whether a journal's line is one that `line` made."""
    try:
        found = strict_json.as_object(strict_json.parse(text, "line"), "line")
        names = [name for clip in clips_of(found) for name in (clip.key, clip.video, clip.group)]
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
    return {*found} == {"key", "clips", "seconds", "seen"} and all(
        isinstance(name, str) for name in (found["key"], *names)
    )


def line(key: str, outcome: Outcome) -> dict[str, Any]:
    """Formats an outcome as a journal's line."""
    return {
        "key": key,
        "clips": [clip.row() for clip in outcome.clips],
        "seconds": {name: round(s, 4) for name, s in outcome.seconds.items()},
        "seen": outcome.seen,
    }


def clips_of(found: Mapping[str, Any]) -> list[Clip]:
    """Reads the clips of a journal's line."""
    return [Clip.from_row(row) for row in found["clips"]]
