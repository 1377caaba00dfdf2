import base64
import dataclasses
import html.parser
import io
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from unityvideo_jax import media
from unityvideo_jax.evaluation.report import document, page, plots, reported, summary
from unityvideo_jax.metrics.scores import ClipScore

DEPTH = "depth/disparity_scale_shift_video/abs_rel"
MASKS = "segmentation/hungarian_clip/j_and_f"

RECORD = {
    "benchmark": "worlds_validation",
    "num_clips": 3,
    "checkpoint_step": 40,
    "ema": True,
    "config_sha256": "0123456789abcdef",
    "sampler": {"solver": "unipc", "steps": 8},
    "seed": 0,
    "size": (17, 64, 96),
    "metrics": {"depth/depth_scale_video/abs_rel": 0.12345, "depth/videos": 3},
    "trivial": {"depth/depth_scale_video/abs_rel": 0.5},
    "protocols": {"depth_scale_video": "one scale"},
    "versions": {"jax": "x"},
}


def test_files_hold_the_record(tmp_path):
    document.write_report(tmp_path / "new", RECORD)
    written = json.loads((tmp_path / "new" / "results.json").read_text())
    assert written["metrics"] == RECORD["metrics"] and written["versions"] == {"jax": "x"}
    assert written["size"] == [17, 64, 96]
    table = (tmp_path / "new" / "results.md").read_text()
    assert "| metric | model | trivial prediction |" in table
    assert "| `depth/depth_scale_video/abs_rel` | 0.1235 | 0.5000 |" in table
    # No headline, so nothing to open with: the table is not folded.
    assert "<details" not in table
    assert "<details open>" in (tmp_path / "new" / "results.html").read_text()
    assert "| `depth/videos` | 3 |  |" in table
    assert "step 40 (averaged weights), config 0123456789ab" in table
    assert "17 frames of 64x96" in table
    assert not [p for p in (tmp_path / "new").iterdir() if p.name.endswith(".part")]


def lines(**changes):
    intervals = {DEPTH: (0.1, 0.2), MASKS: (0.4, 0.6)}
    record = RECORD | {"metrics": {DEPTH: 0.15, MASKS: 0.5}, "intervals": intervals}
    return summary.lines(record | changes, ())


def test_the_report_opens_with_a_line_per_modality_between_its_two_references(tmp_path):
    ceiling, trivial = {DEPTH: 0.05, MASKS: 0.9}, {DEPTH: 0.45, MASKS: 0.1}
    found = {line.modality: line for line in lines(vae_round_trip=ceiling, trivial=trivial)}
    assert list(found) == ["depth", "segmentation"]
    # Lower is better for one of them and higher for the other; both bars run to the right.
    assert found["depth"].way(0.15) == pytest.approx(0.75)
    assert found["segmentation"].way(0.5) == pytest.approx(0.5)
    drawn = summary.page_part(list(found.values()), tmp_path)
    assert "75%" in drawn and "trivial 0.4500" in drawn and "ceiling 0.0500" in drawn
    table = summary.markdown(list(found.values()))
    row = next(row for row in table if row.startswith("| depth |"))
    assert row.endswith(
        "| 0.1500 | 0.1000 to 0.2000 | 0.4500 | 0.0500 | " + "█" * 15 + "░" * 5 + " 75% |"
    )


def test_a_reference_that_was_not_measured_is_named_and_gives_no_bar(tmp_path):
    for changes in ({}, {"trivial": {DEPTH: 0.4}}, {"vae_round_trip": {DEPTH: 0.1}}):
        (line, _) = lines(**changes)
        assert line.way(line.score) is None
        text = summary.page_part([line], tmp_path)
        assert "not measured in this run" in text and "<svg" not in text
        assert "not measured in this run" in summary.markdown([line])[2]
    # Nor does a ceiling that is worse than the trivial prediction.
    (line, _) = lines(vae_round_trip={DEPTH: 0.5}, trivial={DEPTH: 0.4})
    assert line.way(line.score) is None and summary.lines(RECORD, ()) == []


def test_a_bar_stays_inside_its_picture():
    for at, interval in ((-3.0, (-4.0, -2.0)), (0.5, None), (1.4, (0.9, 7.0))):
        svg = plots.bar(at, interval)
        places = [float(x) for x in re.findall(r'x[12]?="([\d.-]+)"', svg)]
        assert min(places) >= 0 and max(places) <= plots.WIDTH
        widths = [float(w) for w in re.findall(r'width="([\d.-]+)" height="14"', svg)]
        assert len(widths) == 2 and min(widths) > 0


def test_nan_never_reaches_the_file(tmp_path):
    document.write_report(tmp_path, RECORD)
    before = (tmp_path / "results.json").read_text()
    with pytest.raises(ValueError):
        document.write_report(tmp_path, RECORD | {"metrics": {"a": float("nan")}})
    assert (tmp_path / "results.json").read_text() == before


def entries(folder):
    """Five clips of growing depth error; the last has no truth and a fault."""
    (folder / "pictures").mkdir(parents=True)
    made = []
    for i in range(5):
        path = f"pictures/{i}.png"
        Image.fromarray(np.full((120, 60, 3), 40 * i, np.uint8)).save(folder / path)
        moving = np.stack(
            [np.roll(np.tile(np.arange(96) * 2, (64, 1)), 9 * t, 1) for t in range(8)]
        )
        frames = moving.astype(np.uint8)[..., None].repeat(3, axis=-1)
        media.write_video(folder / path.replace("png", "mp4"), frames, 8.0, crf=30)
        score = ClipScore(means={DEPTH: (0.1 * i, float(i < 4))})
        faults = ["a <bad> file"] if i == 4 else []
        made.append(
            page.ClipEntry(
                name=f"clip{i}",
                score=score,
                pictures={"depth": path, "rgb": path},
                faults=faults,
            )
        )
    return made


def write_page(folder):
    """A page with everything that there can be; returns its text."""
    record = RECORD | {
        "metrics": {DEPTH: 0.15, "vbench/overall_consistency": 20.0},
        "intervals": {DEPTH: (0.1, 0.2)},
        "bootstrap": {"samples": 1000, "seed": 0},
        "skipped": {"fvd": "fvd is skipped: i3d_torchscript.pt (not in weights)"},
        "faults": ["clip4: a <bad> file"],
        "notes": ["few videos"],
    }
    document.write_report(folder, record, entries(folder))
    return (folder / "results.html").read_text()


def test_page_is_whole_and_alone(tmp_path):
    text = write_page(tmp_path)
    for event, element in xml_events(text):
        if event == "video":
            video = tmp_path / "from_page.mp4"
            video.write_bytes(
                base64.b64decode(element["src"].removeprefix("data:video/mp4;base64,"))
            )
            frames, fps = media.read_video(video)
            assert frames.shape == (8, 64, 96, 3) and fps == 8
            assert (element["height"], element["width"]) == ("64", "96")
            assert {"controls", "loop", "muted"} <= element.keys() and element[
                "preload"
            ] == "metadata"
        if event == "img":
            assert re.match("data:image/(png|jpeg);base64,", element["src"])
            Image.open(io.BytesIO(base64.b64decode(element["src"].split(",")[1]))).verify()
        assert event != "script" and "href" not in element
    assert "a &lt;bad&gt; file" in text and "<bad>" not in text
    best, worst = text.split("<h4>Best</h4>")[1].split("<h4>Worst</h4>")
    worst = worst.split("<h2>")[0]
    assert [n for n in range(5) if f"clip{n}:" in best] == [0, 1, 2]
    assert [n for n in range(5) if f"clip{n}:" in worst] == [1, 2, 3]
    assert worst.index("clip3") < worst.index("clip1")
    assert "fvd is skipped" in text and "few videos" in text
    markdown = (tmp_path / "results.md").read_text()
    assert "| 0.1500 | 0.1000 to 0.2000 |" in markdown
    assert "![depth, clip clip0](pictures/0.png)" in markdown
    # The tables are folded below the lines.
    assert text.index("class='summary'") < text.index("<details><summary>All 3 scores")
    assert "<details><summary>All 3 scores</summary>" in markdown
    for part in ("## Faults", "## Skipped", "## Notes"):
        assert part in markdown


def test_page_of_a_thousand_clips_stays_small(tmp_path):
    """Only the rows of the table grow with the clips; the rest of the page is bounded."""
    (five, *_), sizes = entries(tmp_path), []
    for count in (200, 1000):
        clips = [
            dataclasses.replace(
                five, name=f"clip{i}", score=ClipScore(means={DEPTH: (float(i), 1.0)})
            )
            for i in range(count)
        ]
        document.write_report(tmp_path, RECORD | {"metrics": {DEPTH: 1.0}}, clips)
        text = (tmp_path / "results.html").read_text()
        assert text.count("<video") == 2 * page.SHOWN + page.SHOWN_VIDEOS
        assert text.count("<img") == 2 * (page.SHOWN + page.THUMBNAILS) + page.SHOWN_VIDEOS + 1
        assert f"clip{count - 1}<" in text
        sizes.append(len(text))
    assert sizes[1] < 500_000 and sizes[1] - sizes[0] < 100 * 800


CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on PATH")
def test_page_opens_in_a_browser(tmp_path):
    """A script of the test's, after the page, starts the videos and writes down what loaded."""
    check = """<pre id=check></pre><script>
      const seen = [...document.images].filter(i => i.naturalWidth > 0).length;
      const videos = [...document.querySelectorAll('video')];
      Promise.all(videos.map(v => new Promise(done => {
        v.onloadeddata = () => done(v.videoWidth + 'x' + v.videoHeight);
        v.onerror = () => done('error'); v.preload = 'auto'; v.load();
      }))).then(sizes => document.getElementById('check').textContent =
        `images ${seen} of ${document.images.length}, videos ${sizes}`);
    </script></body>"""
    watched = tmp_path / "watched.html"
    watched.write_text(write_page(tmp_path).replace("</body>", check))
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=20000",
    ]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1280,2400"]
    done = subprocess.run(
        [*command, f"--screenshot={tmp_path / 'page.png'}", watched.as_uri()], capture_output=True
    )
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "page.png") as image:
        assert image.size == (1280, 2400) and len(image.convert("RGB").getcolors(1 << 24)) > 50
    done = subprocess.run(
        [*command, "--dump-dom", watched.as_uri()], capture_output=True, text=True
    )
    found = re.search("images (\\d+) of (\\d+), videos ([^<]*)", done.stdout.split('id="check"')[1])
    assert found and int(found[1]) == int(found[2]) > 10
    assert found[3].split(",") == ["96x64"] * (2 * page.SHOWN + 5)


def xml_events(text):
    """(tag, attributes) of every element; fails on unbalanced tags."""
    found, stack = [], []

    class Reader(html.parser.HTMLParser):
        def handle_starttag(self, tag, attributes):
            found.append((tag, dict(attributes)))
            if tag not in ("meta", "img", "br"):
                stack.append(tag)

        def handle_endtag(self, tag):
            assert stack.pop() == tag

    Reader().feed(text)
    assert stack == []
    return found


def test_metrics_without_a_value_read_as_such():
    text = document.markdown(RECORD | {"metrics": {"depth/depth_scale_video/abs_rel": None}})
    assert "| `depth/depth_scale_video/abs_rel` | n/a |" in text


def test_reported_numbers_stand_beside_ours_and_say_so():
    rows = reported.beside({DEPTH: 0.1, "segmentation/hungarian_clip/mean_iou": 0.5})
    by = {(r.metric, r.system): r for r in rows}
    ours = by["depth AbsRel", "UnityVideo"]
    assert (ours.value, ours.measured, ours.table) == (0.022, 0.1, "1")
    assert by["segmentation mIoU (%)", "SeC"].value == 65.52
    assert by["segmentation mIoU (%)", "SeC"].measured == pytest.approx(50.0)
    assert "does not state its alignment" in ours.caveat
    assert reported.beside({"flow/pooled_all/epe": 1.0, DEPTH: None}) == []
    text = document.markdown(RECORD | {"metrics": {DEPTH: 0.1}})
    assert "reported, not measured here" in text and "arXiv 2512.07831" in text


def test_every_reported_number_is_in_a_table_of_the_paper():
    record = reported.load()
    entries = record["entries"]
    assert record["status"] == reported.STATUS
    assert len({(e["table"], e["task"], e["system"], e["metric"]) for e in entries}) == len(entries)
    assert {e["metric"] for e in entries} <= record["metrics"].keys()
    assert {e["table"] for e in entries} == {"1", "2", "3", "4"}
    # Spot checks of the paper's own rows.
    find = {(e["table"], e["task"], e["system"], e["metric"]): e["value"] for e in entries}
    assert find["1", "text to video", "UnityVideo", "vbench/dynamic_degree"] == 47.76
    assert find["2", "ablation of modalities", "unified, flow", "vbench/imaging_quality"] == 69.36
    assert find["4", "ablation of architecture", "both", "vbench/motion_smoothness"] == 99.54


def test_histogram_shows_every_clip():
    svg = plots.histogram([0.0, 0.0, 1.0], 1 / 3, (0.1, 0.9))
    bars = [float(h) for h in re.findall(r'height="([\d.]+)" fill="#4a78b5"', svg)]
    assert len(bars) == plots.BARS and bars[0] == 2 * bars[-1] and sum(b > 0 for b in bars) == 2
    assert "0.3333" in svg
    assert "<svg" in plots.histogram([2.0], 2.0, None)
