"""Resumable work in chunks: a finished chunk is one whole file, a half one counts for nothing."""

import contextlib
import json
import pathlib
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped

from unityvideo_jax.errors import UserError
from unityvideo_jax.files import lock, provenance, strict_json
from unityvideo_jax.files.npz import read_npz
from unityvideo_jax.files.paths import atomic_path, is_part
from unityvideo_jax.inputs.shards import CARD_NAME, root_of

FOLDER = ".staging"
SETTINGS_NAME = "settings.json"


def difference(
    stored: Mapping[str, Any], wanted: Mapping[str, Any], *, shared_only: bool = False
) -> str | None:
    """The first setting that differs, as '--name=old, now --name=new'; None if all agree.

    Args:
      stored: from a JSON file.
      wanted: of this run.
      shared_only: leave out settings that only one of the two has.
    """
    # Through JSON, since that is how the stored ones went: tuples become lists.
    wanted = json.loads(json.dumps(wanted))
    for name in [*wanted, *(n for n in stored if n not in wanted)]:
        if shared_only and not (name in stored and name in wanted):
            continue
        if stored.get(name) != wanted.get(name):
            return f"{_show(name, stored.get(name))}, now {_show(name, wanted.get(name))}"
    return None


def _show(name: str, value: Any) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    text = text if len(text) < 200 else text[:200] + "..."
    # Settings that are no flag, such as a codec's version, have a space in their name.
    return f"{name} {text}" if " " in name else f"--{name}={text}"


class Staging:
    """The clips that one unfinished preparation has finished, in `<workdir>/latents/.staging/`.

    A clip is known by its identity, so the same command resumes after clips were added, replaced or
    moved away.

    Args:
      workdir: prepare's --workdir.
      settings: everything that decides the content of all clips; a resumed run must bring the same.
    """

    def __init__(self, workdir: pathlib.Path, settings: Mapping[str, Any]):
        self._workdir = workdir
        self._folder = root_of(workdir) / FOLDER
        self._settings = dict(settings)
        # Chunk file and row of each staged clip, by identity.
        self._places: dict[str, tuple[pathlib.Path, int]] = {}

    def check(self) -> bool:
        """Whether an unfinished preparation of the same settings is there. Writes nothing.

        Raises:
          UserError: one of other settings is there, or a latents folder that is not ours.
        """
        path = self._folder / SETTINGS_NAME
        if not path.exists():
            root = root_of(self._workdir)
            ours = {FOLDER, f"{FOLDER}.lock"}
            there = root.iterdir() if root.exists() else ()
            strangers = [p for p in there if p.name not in ours and not is_part(p)]
            if strangers and not (root / CARD_NAME).exists():
                raise UserError(
                    f"{root}: holds {strangers[0].name}, which no finished or unfinished "
                    "preparation explains; move it away or give another --workdir"
                )
            return False
        stored = strict_json.read_object(path, f"delete {self._folder} and start over")
        if changed := difference(stored, self._settings):
            raise UserError(
                f"{self._workdir}: an unfinished preparation was begun with {changed}; give the "
                f"old value to resume it, delete {self._folder}, or give another --workdir"
            )
        return True

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the workdir for this process; the kernel frees it however the process ends.

        Raises:
          UserError: another process holds it.
        """
        file = root_of(self._workdir) / f"{FOLDER}.lock"
        with lock.locked(file, f"--workdir={self._workdir}"):
            yield

    def begin(self) -> None:
        """Records the settings and finds what is staged; call after `check`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if not (self._folder / SETTINGS_NAME).exists():
            provenance.write_json(self._folder / SETTINGS_NAME, self._settings)
        for path in self._chunks():
            try:
                found = read_npz(path, ["identity"], others=False, fix="its clips are done again")
                self._add(path, found["identity"])
            except UserError as error:
                print(error, flush=True)
                path.unlink()

    def _chunks(self) -> list[pathlib.Path]:
        return sorted(self._folder.glob("chunk-*.npz"))

    def _add(self, path: pathlib.Path, identities: np.ndarray) -> None:
        self._places |= {name: (path, row) for row, name in enumerate(identities.tolist())}

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, identity: str) -> bool:
        return identity in self._places

    def write(self, arrays: Mapping[str, Shaped[np.ndarray, "n ..."]]) -> None:
        """Stores a chunk.

        Args:
          arrays: their first axis runs over the clips; "identity" is among them.

        Raises:
          ValueError: arrays of different lengths.
        """
        if len({len(array) for array in arrays.values()}) != 1:
            raise ValueError(f"{list(arrays)} do not have equally many rows")
        last = max((int(path.stem.partition("-")[2]) for path in self._chunks()), default=-1)
        path = self._folder / f"chunk-{last + 1:08d}.npz"
        with atomic_path(path) as temporary, open(temporary, "wb") as handle:
            np.savez(handle, **arrays)
        self._add(path, arrays["identity"])

    def rows(self, identities: Sequence[str], names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yields these arrays of these clips in order, one chunk in memory at a time."""
        loaded, arrays = None, {}
        for identity in identities:
            path, row = self._places[identity]
            if path != loaded:
                fix = "delete it and run the same command again"
                loaded, arrays = path, read_npz(path, names, others=False, fix=fix)
            yield {name: array[row] for name, array in arrays.items()}

    def remove_partial_series(self, modalities: Sequence[str]) -> None:
        """Deletes what a killed TFDS builder left: folders that it had not renamed yet."""
        for modality in modalities:
            for path in (root_of(self._workdir) / modality).glob("*incomplete*"):
                shutil.rmtree(path)

    def remove(self) -> None:
        """Deletes the chunks; call once the dataset's card is written."""
        shutil.rmtree(self._folder, ignore_errors=True)


class Progress:
    """Lines of clips done of all, clips per second and time left; a few seconds apart."""

    INTERVAL = 2.0

    def __init__(self, what: str, total: int, done: int = 0, *, compiles: bool = False):
        """The first `advance` of work that compiles is left out of the rate."""
        # Kept, since packing hides what TFDS itself prints.
        self._stream = sys.stdout
        self._what, self._total, self._done, self._start_done = what, total, done, done
        self._start = time.monotonic()
        self._printed = self._start
        self._compiling = compiles and done < total
        if done:
            print(f"{what}: {done}/{total} clips were done before, continuing", flush=True)
        if self._compiling:
            print(f"{what}: compiling for the first clips, up to some minutes", flush=True)

    def advance(self, clips: int) -> None:
        """Counts clips, and prints if it is time or all are done."""
        self._done += clips
        if self._compiling and self._done < self._total:
            self._compiling = False
            seconds = _duration(time.monotonic() - self._start)
            print(
                f"{self._what}: {self._done}/{self._total} clips, compiled in {seconds}", flush=True
            )
            self._start, self._start_done = time.monotonic(), self._done
            return
        if time.monotonic() - self._printed < self.INTERVAL and self._done < self._total:
            return
        self._printed = time.monotonic()
        elapsed = max(time.monotonic() - self._start, 1e-6)
        rate = (self._done - self._start_done) / elapsed
        left = (self._total - self._done) / rate
        print(
            f"{self._what}: {self._done}/{self._total} clips, {rate:.1f} clips/s, "
            f"{_duration(left)} left",
            file=self._stream,
            flush=True,
        )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
