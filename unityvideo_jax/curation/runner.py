"""Runs the phases on one machine, in this process or in several, and resumes after a kill."""

import concurrent.futures
import multiprocessing
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool

from unityvideo_jax.curation import cutting, phases, stage
from unityvideo_jax.curation.journal import Journal, clips_of
from unityvideo_jax.curation.stage import Clip, Collective, Job, Outcome, Stage
from unityvideo_jax.errors import UserError
from unityvideo_jax.files import lock
from unityvideo_jax.inputs.staging import Progress
from unityvideo_jax.runtime import signals

FOLDER = "curation"
# Maps a phase over its clips: yields their keys and outcomes, in any order.
Mapper = Callable[[phases.Phase, Sequence[Clip], Job], Iterator[tuple[str, Outcome]]]
# Set-up of a worker process: the chain, the job, and the error if it failed.
_worker: tuple[tuple[Stage, ...], Job, UserError | None]


def journal_path(job: Job, phase: phases.Phase) -> pathlib.Path:
    """The path of a phase's journal."""
    return pathlib.Path(job.workdir) / FOLDER / f"{phase.name}.jsonl"


def run_job(
    stages: Sequence[Stage | Collective],
    job: Job,
    *,
    num_workers: int = 0,
    mapper: Mapper | None = None,
) -> dict[str, Clip]:
    """Runs all phases over all videos of a folder.

    Args:
      stages: in order.
      job: its folders.
      num_workers: processes; 0 is this one, where a video that crashes the decoder crashes all.
      mapper: maps the phases instead of these processes, such as `beam.Beam`.

    Returns:
      Every clip by key, the rejected ones too.

    Raises:
      UserError: an empty folder, stages that cannot be set up, a workdir of other settings or one
        in use.
    """
    found = cutting.find(job.source)
    job.clips.mkdir(parents=True, exist_ok=True)
    folder = pathlib.Path(job.workdir) / FOLDER
    plan = phases.split(stages)
    check_names(plan)
    with lock.locked(folder / ".lock", f"--workdir={job.workdir}"):
        accepted = {clip.key: clip for clip in found if not clip.rejected_by}
        rejected = {clip.key: clip for clip in found if clip.rejected_by}
        for phase in plan:
            if phase.collective is not None:
                made = list(phase.collective([accepted[key] for key in sorted(accepted)]))
            else:
                made = _map(phase, job, accepted, num_workers, mapper)
            rejected |= {clip.key: clip for clip in made if clip.rejected_by}
            accepted = {clip.key: clip for clip in made if not clip.rejected_by}
    return dict(sorted({**accepted, **rejected}.items()))


def check_names(plan: Sequence[phases.Phase]) -> None:
    """Raises UserError if two phases would write one journal."""
    names = [phase.name for phase in plan if phase.stages]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(
            f"config.stages: {sorted(twice)[0]!r} twice; put collective stages and those that run "
            "alone (captions, modalities) behind the others, and name none twice"
        )


def _map(
    phase: phases.Phase,
    job: Job,
    clips: Mapping[str, Clip],
    num_workers: int,
    mapper: Mapper | None,
) -> list[Clip]:
    if phase.alone and (why := phase.stages[0].skipped()):
        # Leaves no journal, so that it can be configured later.
        name = phase.stages[0].name
        return [clip.note(name, f"skipped: {why}") for clip in clips.values()]
    journal = Journal(journal_path(job, phase), phase.settings)
    done = {found["key"] for found in journal.lines()}
    todo = [clips[key] for key in sorted(clips) if key not in done]
    if todo:
        progress = Progress(phase.name, len(clips), done=len(clips) - len(todo))
        results = (
            mapper(phase, todo, job) if mapper else outcomes(phase.stages, todo, job, num_workers)
        )
        for key, outcome in results:
            journal.add(key, outcome)
            progress.advance(1)
    made = []
    for found in journal.lines():
        # Lines of videos that are not in the source folder are left alone.
        if found["key"] in clips:
            new = clips_of(found)
            made += [clips[found["key"]].absorb(c) for c in new] if phase.alone else new
    return made


def outcomes(
    chain: tuple[Stage, ...], todo: Sequence[Clip], job: Job, num_workers: int
) -> Iterator[tuple[str, Outcome]]:
    """Yields the outcome of a chain for each clip, in any order."""
    if num_workers < 1:
        stage.set_up(chain)
        for clip in todo:
            yield clip.key, stage.run(chain, clip, job)
        return
    waiting = {clip.key: clip for clip in todo}
    while waiting:
        suspects = []
        for clip, outcome in _pool(chain, list(waiting.values()), job, num_workers):
            if outcome is None:
                suspects.append(clip)
            else:
                del waiting[clip.key]
                yield clip.key, outcome
        # A worker died. Each clip that was under way runs alone: the one that kills again is it.
        for clip in suspects:
            ((_, outcome),) = _pool(chain, [clip], job, 1)
            if outcome is None:
                reason = "its process died: out of memory, or the decoder crashed"
                outcome = Outcome(clips=[clip.reject(chain[0].name, reason)])
            del waiting[clip.key]
            yield clip.key, outcome


def _pool(
    chain: tuple[Stage, ...], todo: Sequence[Clip], job: Job, num_workers: int
) -> Iterator[tuple[Clip, Outcome | None]]:
    """Outcomes from a pool of processes; None for the clips under way when one of them died."""
    # Spawned, since neither JAX nor torch survives a fork.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        min(num_workers, len(todo)), mp_context=context, initializer=_setup, initargs=(chain, job)
    ) as pool:
        rest = iter(todo)
        running: dict[concurrent.futures.Future, Clip] = {}
        alive = True
        while alive:
            # Few at a time: those are all that a dying worker puts under suspicion.
            while len(running) < 2 * num_workers and (clip := next(rest, None)) is not None:
                try:
                    running[pool.submit(_run, clip)] = clip
                except BrokenProcessPool:
                    alive = False
                    yield clip, None
                    break
            if not running:
                return
            ready, _ = concurrent.futures.wait(
                running, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in ready:
                clip = running.pop(future)
                try:
                    yield clip, future.result()
                except BrokenProcessPool:
                    alive = False
                    yield clip, None
        for clip in running.values():
            yield clip, None


def _setup(chain: tuple[Stage, ...], job: Job) -> None:
    global _worker
    signals.leave_with_parent()
    _worker = chain, job, None
    try:
        stage.set_up(chain)
    except UserError as error:
        # An initialiser that raises breaks the pool, and the reason would be lost.
        _worker = chain, job, error


def _run(clip: Clip) -> Outcome:
    chain, job, error = _worker
    if error is not None:
        raise error
    return stage.run(chain, clip, job)
