"""Speed and memory of scoring a folder of predictions of every modality.

Command: python benchmarks/evaluation.py --clips=1000 --processes=2

Makes a benchmark and predictions of 81x480x832 pixels, then runs `unityvideo_jax.evaluate` on them
three times: on the first `--few` clips, on all of them, and once more with nothing left to do. The
clips are procedural worlds (people, moving objects, exact truth), rendered at a quarter of the size
and magnified; predictions are the truth with noise, a shift and a flicker. There are only
`--distinct` different clips, about 1.9 GB each: the others are hard links to their files, each with
a caption of its own. Files so come from the page cache; a real benchmark is also read from disk.
"""

import argparse
import collections
import datetime
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence

import jax
import numpy as np

from unityvideo_jax import media, modalities, worlds

FPS = 16.0
MAGNIFIED = 4


def magnify(key: str, array: np.ndarray) -> np.ndarray:
    """Returns an array of a clip at `MAGNIFIED` times its size."""
    if key == "visibility":
        return array
    if key == "keypoints":
        return MAGNIFIED * array
    large = array.repeat(MAGNIFIED, axis=1).repeat(MAGNIFIED, axis=2)
    return MAGNIFIED * large if key == "flow" else large


def degrade(key: str, array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns the prediction of a middling system.

    Args:
      key: name of the array.
      array: true values of a clip.
      rng: of the errors.
    """
    if key == "depth":
        flicker = np.exp(0.1 * rng.standard_normal((len(array), 1, 1)))
        return (array * flicker).astype(np.float32)
    if key == "keypoints":
        return array + rng.normal(0.0, 2.0, array.shape).astype(np.float32)
    if key == "flow":  # wrong in patches of 32 pixels
        frames, height, width, _ = array.shape
        error = rng.normal(0.0, 2.0, (frames, -(-height // 32), -(-width // 32), 2))
        error = error.repeat(32, axis=1).repeat(32, axis=2)[:, :height, :width]
        return array + error.astype(np.float32)
    return array if key == "visibility" else np.roll(array, 5, axis=2)


def write_clip(
    config: worlds.WorldConfig, index: int, truth: pathlib.Path, theirs: pathlib.Path
) -> None:
    """Writes one clip of the benchmark and its prediction."""
    rng = np.random.default_rng(index)
    scene = worlds.sample_scenes(config, np.array([index], np.int32))
    clip = {k: np.asarray(v[0]) for k, v in worlds.render(config, scene).items()}
    for folder in (truth, theirs):
        folder.mkdir(parents=True)
    for modality, metric in modalities.metrics().items():
        keys = [k for k in (*metric.keys, *metric.extra) if k in clip]
        arrays = {k: magnify(k, clip[k]) for k in keys}
        np.savez(truth / f"{modality}.npz", **arrays)
        predicted = {k: degrade(k, arrays[k], rng) for k in metric.keys}
        np.savez(theirs / f"{modality}.npz", **predicted)
    rgb = media.to_uint8(2.0 * magnify("rgb", clip["rgb"]) - 1.0)
    media.write_video(truth / "rgb.mp4", rgb, FPS)
    media.write_video(theirs / "rgb.mp4", np.roll(rgb, 5, axis=2), FPS)


def make(root: pathlib.Path, args: argparse.Namespace) -> None:
    """Writes `benchmark` and `predictions` below the folder."""
    config = worlds.WorldConfig(
        num_frames=args.num_frames,
        height=args.height // MAGNIFIED,
        width=args.width // MAGNIFIED,
        fps=FPS,
        split="validation",
    )
    for i in range(args.clips):
        name = f"clip{i:05d}"
        here = [root / side / name for side in ("benchmark", "predictions")]
        if i < args.distinct:
            write_clip(config, i, *here)
        else:
            for folder in here:
                folder.mkdir()
                source = folder.parent / f"clip{i % args.distinct:05d}"
                for file in (f for f in source.iterdir() if f.suffix != ".json"):
                    os.link(file, folder / file.name)
        (here[0] / "clip.json").write_text(json.dumps({"caption": f"clip {i}", "fps": FPS}))


def children(pid: int) -> list[int]:
    """The processes that any thread of a process started (Linux)."""
    found = []
    for listed in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(child) for child in listed.read_text().split()]
        except OSError:  # the thread has ended
            continue
    return found


def peak_memory(pid: int) -> float:
    """The most memory that a process held so far, in GB; 0 if it is gone (Linux)."""
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
    return 1024 * int(found[0]) / 1e9 if found else 0.0


def child_seconds() -> float:
    """CPU seconds of the processes that ended so far, and of those that they started."""
    used = os.times()
    return used.children_user + used.children_system


def score(root: pathlib.Path, clips: int, processes: int) -> tuple[float, float, float]:
    """Runs the program on the first clips: seconds, CPU seconds, and GB of the largest process."""
    first = root / f"first_{clips}"
    if not first.exists():
        first.mkdir()
        for i in range(clips):
            (first / f"clip{i:05d}").symlink_to(root / "benchmark" / f"clip{i:05d}")
    command = [sys.executable, "-m", "unityvideo_jax.evaluate", f"--benchmark={first}"]
    command += [f"--predictions={root / 'predictions'}", "--system=noise"]
    command += [f"--output={root / 'output'}", f"--processes={processes}"]
    start, used = time.perf_counter(), child_seconds()
    with open(root / "log", "w") as log:
        running = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        largest = [0.0]
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.2):
                ours = (running.pid, *children(running.pid))
                largest[0] = max(largest[0], *map(peak_memory, ours))

        watcher = threading.Thread(target=watch)
        watcher.start()
        running.wait()
        done.set()
        watcher.join()
    if running.returncode:
        raise SystemExit((root / "log").read_text())
    return time.perf_counter() - start, child_seconds() - used, largest[0]


def main(argv: Sequence[str] | None = None) -> None:
    """Prints two Markdown tables: of the whole, and of the modalities."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--few", type=int, default=10, help="clips of the first run")
    parser.add_argument("--distinct", type=int, default=2, help="clips that are not links")
    parser.add_argument("--num_frames", type=int, default=81)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=832)
    parser.add_argument("--folder", help="where to put some 4 GB; a temporary folder if left out")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        root = pathlib.Path(folder)
        make(root, args)
        few = min(args.few, args.clips)
        first, cpu_first, memory_first = score(root, few, args.processes)
        rest, cpu_rest, memory = score(root, args.clips, args.processes)
        resumed, *_ = score(root, args.clips, args.processes)
        rows = [json.loads(p.read_text()) for p in (root / "output" / "rows").iterdir()]
        page = (root / "output" / "results.html").stat().st_size
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    size = f"{args.num_frames}x{args.height}x{args.width}"
    print(f"{date}, {os.cpu_count()} CPU cores, jax {jax.__version__}, {size}\n")
    titles = ("clips", "processes", "clips/s", "CPU s per clip", f"GB per process, {few} clips")
    print(f"| {' | '.join(titles)} | GB, all clips | again, s |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    print(
        f"| {args.clips} | {args.processes} | {args.clips / (first + rest):.3f} | "
        f"{(cpu_first + cpu_rest) / args.clips:.1f} | "
        f"{memory_first:.2f} | {memory:.2f} | {resumed:.0f} |\n"
    )
    seconds: collections.Counter[str] = collections.Counter()
    for row in rows:
        seconds.update(row["seconds"])
    print("| modality | seconds per clip |\n| --- | ---: |")
    for stream, total in seconds.items():
        print(f"| {stream} | {total / len(rows):.1f} |")
    print(f"\nresults.html: {page / 1e6:.1f} MB", flush=True)


if __name__ == "__main__":
    main()
