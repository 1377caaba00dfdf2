"""Makes the README's picture from the files of `make demo`.

Command: python benchmarks/jobs_picture.py demo docs/jobs.png
"""

import argparse
import pathlib

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from unityvideo_jax import media

FRAMES, GAP, LINE, LABEL = (0, 5, 10, 16), 2, 24, 70
Picture = UInt8[np.ndarray, "h w 3"]


def written(picture: Image.Image, place: tuple[int, int], text: str, size: int = 14) -> None:
    """Writes black text into a picture."""
    font = ImageFont.load_default(size)
    ImageDraw.Draw(picture).text(place, text, fill="black", font=font)


def rows_of(title: str, rows: list[tuple[str, pathlib.Path]]) -> Image.Image:
    """A title above labelled videos, each as a row of frames."""
    strips = []
    for _, file in rows:
        frames, _ = media.read_video(file)
        strips.append(
            np.concatenate(
                [
                    np.pad(frames[n], ((0, GAP), (0, GAP), (0, 0)), constant_values=255)
                    for n in FRAMES
                ],
                axis=1,
            )
        )
    height, width = strips[0].shape[:2]
    picture = Image.new("RGB", (LABEL + width, LINE + height * len(rows)), "white")
    written(picture, (2, 4), title)
    for n, ((label, _), strip) in enumerate(zip(rows, strips, strict=True)):
        top = LINE + n * height
        picture.paste(Image.fromarray(strip), (LABEL, top))
        written(picture, (2, top + height // 2 - 8), label, 13)
    return picture


def main() -> None:
    """Writes the picture from a demo's folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    args = parser.parse_args()
    joint, control, four = (args.demo / name for name in ("joint", "control", "four"))
    left = [
        rows_of("Joint: “A person in a red shirt walks past a blue ball.”",
                [("RGB", joint / "rgb.mp4"), ("depth", joint / "depth.mp4")]),
        rows_of("Control: that depth, “… green shirt … yellow ball.”",
                [("depth", control / "depth.mp4"), ("RGB", control / "rgb.mp4")]),
    ]  # fmt: skip
    names = {"rgb": "RGB", "depth": "depth", "segmentation": "masks", "skeleton": "skeleton"}
    right = rows_of("Four streams at once, the first caption",
                    [(label, four / f"{name}.mp4") for name, label in names.items()])  # fmt: skip
    sheets = [
        Image.open(args.demo / "estimation" / "pictures" / f"0000_{name}.png").convert("RGB")
        for name in ("depth", "flow", "segmentation")
    ]
    width = left[0].width + right.width + LINE
    top = max(sum(part.height + LINE for part in left), right.height + LINE)
    each = (width - 2 * LINE // 2) // len(sheets)
    sheets = [sheet.resize((each, sheet.height * each // sheet.width)) for sheet in sheets]
    picture = Image.new("RGB", (width, top + LINE + sheets[0].height), "white")
    place = 0
    for part in left:
        picture.paste(part, (0, place))
        place += part.height + LINE
    picture.paste(right, (left[0].width + LINE, 0))
    written(picture, (2, top), "Estimation in one pass, of RGB that it never saw")
    for n, sheet in enumerate(sheets):
        picture.paste(sheet, (n * (each + LINE // 2), top + LINE))
    picture.save(args.output, optimize=True)


if __name__ == "__main__":
    main()
