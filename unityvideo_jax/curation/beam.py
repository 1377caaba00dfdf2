"""Maps the phases by Apache Beam, on any of its runners, with the local runner's results.

A pipeline's elements are parts of a few clips. A part's outcomes are one file, written whole or not
at all under a name that only its clips decide: a part that is tried again, on whatever worker,
writes the same file, and a job that was killed continues with the missing parts. So results depend
neither on the runner nor on the number of workers. Every worker must see the job's two folders
under the same paths, and have the packages and weights of the stages.

Each clip runs in a child process: a video that crashes the decoder or never ends costs that
process, is set aside with its reason, and stops neither its worker nor the job.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import multiprocessing
import pathlib
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence

from unityvideo_jax.curation import stage
from unityvideo_jax.curation.journal import clips_of, is_whole, line
from unityvideo_jax.curation.phases import Phase
from unityvideo_jax.curation.runner import FOLDER
from unityvideo_jax.curation.stage import Clip, Job, Outcome, Stage
from unityvideo_jax.errors import UserError
from unityvideo_jax.files import provenance, strict_json
from unityvideo_jax.files.paths import atomic_path
from unityvideo_jax.runtime import signals

ERROR_NAME = "error.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Beam:
    """A mapper for `runner.run_job`.

    Attributes:
      options: of the pipeline, such as `--runner=DirectRunner`.
      clips_per_part: clips that a worker takes at a time, and that a kill can cost it at most.
      clip_seconds: a clip that takes longer is set aside.
    """

    options: tuple[str, ...] = ()
    clips_per_part: int = 8
    clip_seconds: float = 1800.0

    def __call__(
        self, phase: Phase, todo: Sequence[Clip], job: Job
    ) -> Iterator[tuple[str, Outcome]]:
        """Yields the outcome of a phase for each clip, in any order.

        Raises:
          UserError: apache-beam is missing, its options are wrong, or a stage cannot be set up.
        """
        # Parts of other settings are other parts: their folder has another name.
        identity = provenance.config_hash(phase.settings)[:12]
        parts = pathlib.Path(job.workdir) / FOLDER / f"{phase.name}-{identity}.parts"
        parts.mkdir(parents=True, exist_ok=True)
        (parts / ERROR_NAME).unlink(missing_ok=True)
        waiting = {clip.key: clip for clip in todo}
        for key, outcome in _harvest(parts, waiting):
            del waiting[key]
            yield key, outcome
        if waiting:
            self._run(phase.stages, list(waiting.values()), job, parts)
            for key, outcome in _harvest(parts, waiting):
                del waiting[key]
                yield key, outcome
        if waiting:
            raise UserError(
                f"{parts}: the pipeline ended without {len(waiting)} clips, such as "
                f"{min(waiting)}; do all workers see {job.workdir}? Then run it again"
            )
        shutil.rmtree(parts)

    def _run(
        self, chain: tuple[Stage, ...], clips: list[Clip], job: Job, parts: pathlib.Path
    ) -> None:
        try:
            import apache_beam as beam
            from apache_beam.options.pipeline_options import PipelineOptions
        except ImportError as error:
            raise UserError(f"config.beam: {error}; pip install 'unityvideo_jax[beam]'") from None
        rows = [clip.row() for clip in clips]
        size = self.clips_per_part
        batches = [rows[n : n + size] for n in range(0, len(rows), size)]
        work = functools.partial(
            map_part, chain=chain, job=job, parts=str(parts), seconds=self.clip_seconds
        )
        try:
            with beam.Pipeline(options=PipelineOptions(list(self.options))) as pipeline:
                # Reshuffled, so that no runner fuses all parts into one worker's work.
                _ = pipeline | beam.Create(batches) | beam.Reshuffle() | beam.Map(work)
        except Exception as error:
            if (parts / ERROR_NAME).exists():
                found = strict_json.read_object(parts / ERROR_NAME)
                raise UserError(str(found.get("error"))) from error
            raise


def _harvest(parts: pathlib.Path, wanted: Mapping[str, Clip]) -> Iterator[tuple[str, Outcome]]:
    """The outcomes of these clips that finished parts hold."""
    remaining = set(wanted)
    for path in sorted(parts.glob("*.jsonl")):
        lines = path.read_bytes().splitlines()
        whole = [text for text in lines if is_whole(text)]
        if len(whole) < len(lines):
            print(f"{path}: {len(lines) - len(whole)} damaged lines; their clips are done again")
            path.unlink()
        for text in whole:
            found = json.loads(text)
            if found["key"] in remaining:
                remaining.remove(found["key"])
                yield (
                    found["key"],
                    Outcome(clips=clips_of(found), seconds=found["seconds"], seen=found["seen"]),
                )


def map_part(
    rows: Sequence[Mapping], *, chain: tuple[Stage, ...], job: Job, parts: str, seconds: float
) -> int:
    """Runs a worker's part: maps its clips and writes their file; returns their number."""
    clips = [Clip.from_row(row) for row in rows]
    name = hashlib.sha256("\n".join(clip.key for clip in clips).encode()).hexdigest()[:24]
    path = pathlib.Path(parts) / f"{name}.jsonl"
    if path.exists():  # an earlier try wrote it before its worker was lost
        return len(clips)
    try:
        lines = [line(clip.key, run_apart(chain, clip, job, seconds)) for clip in clips]
    except UserError as error:
        provenance.write_json(pathlib.Path(parts) / ERROR_NAME, {"error": str(error)})
        raise
    with atomic_path(path) as temporary:
        temporary.write_text("".join(json.dumps(found) + "\n" for found in lines))
    return len(clips)


# Each thread of a worker has a child of its own, which lives as long as its chain is asked for.
_children = threading.local()


def run_apart(chain: tuple[Stage, ...], clip: Clip, job: Job, seconds: float) -> Outcome:
    """Runs `stage.run` in a child process that the clip may crash or block.

    Raises:
      UserError: a stage cannot be set up, or the disk refuses.
    """
    child = getattr(_children, "child", None)
    if child is None or (child.chain, child.job) != (chain, job):
        if child is not None:
            child.stop()
        _children.child = child = _Child(chain, job)
    try:
        return child.run(clip, seconds)
    except (EOFError, OSError, TimeoutError) as error:
        child.stop()
        _children.child = None
        late = isinstance(error, TimeoutError)
        reason = (
            f"took longer than {seconds:g} s"
            if late
            else "its process died: out of memory, or the decoder crashed"
        )
        return Outcome(clips=[clip.reject(chain[0].name, reason)])


class _Child:
    """A process that has set up a chain, and runs clips through it one by one."""

    def __init__(self, chain: tuple[Stage, ...], job: Job):
        self.chain, self.job = chain, job
        # Spawned, since neither JAX nor torch survives a fork.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, chain, job), daemon=True)
        self._process.start()
        # Its end is open there alone, so that either side sees the other's death.
        theirs.close()
        try:
            error = self._connection.recv()
        except EOFError:
            raise UserError("a worker's process died while it set up its stages") from None
        if error is not None:
            raise error

    def run(self, clip: Clip, seconds: float) -> Outcome:
        """Returns what `stage.run` makes of a clip, or the UserError that it raises.

        Raises:
          EOFError, OSError: the process died.
          TimeoutError: it takes too long.
        """
        self._connection.send(clip)
        if not self._connection.poll(seconds):
            raise TimeoutError
        found = self._connection.recv()
        if isinstance(found, UserError):
            raise found
        return found

    def stop(self) -> None:
        """Ends the process, whatever it is at."""
        self._process.kill()
        self._process.join()
        self._connection.close()


def _serve(connection, chain: tuple[Stage, ...], job: Job) -> None:
    signals.leave_with_parent()
    try:
        stage.set_up(chain)
    except UserError as error:
        connection.send(error)
        return
    connection.send(None)
    # The worker is gone when its end closes.
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            clip = connection.recv()
            try:
                made = stage.run(chain, clip, job)
            except UserError as error:
                made = error
            connection.send(made)
