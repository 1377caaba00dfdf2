import pathlib
import sys

import numpy as np
import pytest
import transformers
from PIL import Image

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "annotators"))

import tiny_models  # noqa: E402

from unityvideo_jax.curation import stage  # noqa: E402
from unityvideo_jax.curation.captions import Captions  # noqa: E402
from unityvideo_jax.curation.stage import Clip, Job  # noqa: E402
from unityvideo_jax.errors import UserError  # noqa: E402

FRAMES = tiny_models.frames()
CLIP = Clip(key="k", video="some/v.mp4", frames=FRAMES)


@pytest.fixture
def job(tmp_path):
    job = Job(source=str(tmp_path / "in"), workdir=str(tmp_path / "out"))
    (tmp_path / "in" / "some").mkdir(parents=True)
    job.clips.mkdir(parents=True)
    return job


def caption(job, member):
    (clip,) = stage.run((member,), CLIP, job).clips
    assert not clip.reason.startswith("failed"), clip.reason
    return clip, job.file(clip, ".txt")


def test_given_captions_come_from_the_csv_or_beside_the_video(job, tmp_path):
    job.video(CLIP).with_suffix(".txt").write_text("A man walks. \n")
    clip, path = caption(job, Captions())
    assert clip.caption == "A man walks." and path.read_text() == "A man walks.\n"
    table = tmp_path / "captions.csv"
    table.write_text('video,caption\nsome/v.mp4,"A dog, running"\n')
    assert caption(job, Captions(file=str(table)))[0].caption == "A dog, running"


@pytest.mark.parametrize(
    "name", ["./some/v.mp4", "some//v.mp4", " some/v.mp4", "some/../some/v.mp4"]
)
def test_rows_may_spell_a_path_in_other_ways(job, tmp_path, name):
    (tmp_path / "captions.csv").write_text(f"video,caption\n{name},A dog.\n")
    assert caption(job, Captions(file=str(tmp_path / "captions.csv")))[0].caption == "A dog."


def test_texts_in_capitals_are_read_and_rows_of_no_video_listed(job, tmp_path, capsys):
    job.video(CLIP).with_suffix(".TXT").write_text("A man walks.\n")
    job.video(CLIP).touch()
    rows = ("v.mp4", "./some/v.mp4", str(job.video(CLIP)))
    table = tmp_path / "captions.csv"
    table.write_text("video,caption\n" + "".join(f"{row},A dog.\n" for row in rows))
    assert caption(job, Captions())[0].caption == "A man walks."
    Captions(file=str(table)).list_unused(job)
    said = f"{table}: ignored 2 rows of no video below {job.source}: v.mp4, {rows[2]}\n"
    assert capsys.readouterr().out == said


def test_a_missing_caption_is_noted_or_rejects(job):
    clip, path = caption(job, Captions())
    assert clip.caption == "" and "empty" in clip.notes["captions"] and path.read_text() == "\n"
    assert caption(job, Captions(required=True))[0].reason == "no caption"


def test_a_model_writes_what_transformers_pipeline_writes(job):
    member = Captions(weights=tiny_models.llava(), prompt="a man", samples=2, max_tokens=8)
    member.setup()
    clip, _ = caption(job, member)
    pipe = transformers.pipeline("image-text-to-text", model=tiny_models.llava(), device="cpu")
    images = [{"type": "image", "image": Image.fromarray(FRAMES[i])} for i in (0, 4)]
    content = [*images, {"type": "text", "text": "a man"}]
    (reference,) = pipe(
        text=[{"role": "user", "content": content}],
        return_full_text=False,
        generate_kwargs=dict(max_new_tokens=8, do_sample=False),
    )
    assert clip.caption and clip.caption == " ".join(reference["generated_text"].split())


def test_bad_files_and_folders_are_named(job, tmp_path):
    for text, message in (
        ("", "bad.csv: an empty table"),
        ("name,caption\na,b\n", "unknown column 'name'; known: video, caption"),
        ("video\na\n", "lacks the column caption"),
        ("video,caption\na.mp4,b\na.mp4,c\n", "line 3: a second caption of 'a.mp4'"),
        ("video,caption\na.mp4,b, c\n", "line 2: 3 fields where the header has 2"),
    ):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(UserError, match=message):
            Captions(file=str(tmp_path / "bad.csv")).setup()
    with pytest.raises(UserError, match=r"none\.csv: no such file"):
        Captions(file=str(tmp_path / "none.csv")).setup()
    with pytest.raises(UserError, match="does not load as AutoModelForImageTextToText"):
        Captions(weights=tiny_models.vitpose()).setup()
    assert np.array_equal(CLIP.frames, FRAMES)
