"""The local page, driven in a headless Chromium as a user would."""

import io
import sys
import urllib.request

import chromium
import in_process
import numpy as np
import pytest
from tiny_pipeline import quick_compile, tiny_parts  # noqa: F401

from unityvideo_jax import app, media
from unityvideo_jax.sampling.pipeline import Pipeline
from unityvideo_jax.sampling.presets import PRESETS

STATUS = "document.querySelector('#status').innerText"
START = "document.querySelector('#start').click()"
OPTIONS = "[...document.querySelectorAll('ul[role=listbox] li')]"
CHOICE = OPTIONS + ".find(o => o.innerText.includes('one_pass'))"
# Clicks a checkbox or radio by its label.
TICK = "[...document.querySelectorAll('label')].find(l => l.innerText.trim() == {!r}).click()"


def test_without_gradio_there_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    done = in_process.run("app")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: the page needs Gradio") and "[app]" in done.stderr


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Two seconds of a moving ramp, larger than the model's size."""
    ramp = np.tile(np.arange(64, dtype=np.uint8) * 3, (48, 1))[..., None].repeat(3, axis=-1)
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    media.write_video(path, np.stack([np.roll(ramp, 4 * t, axis=1) for t in range(16)]), 8.0)
    return path


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A pipeline and the address of its page."""
    pytest.importorskip("gradio", reason="Gradio is not installed; pip install '.[app]'")
    if chromium.PATH is None:
        pytest.skip("no Chromium or Chrome on PATH")
    folder, pipeline = tmp_path_factory.mktemp("app"), Pipeline(**tiny_parts())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "gradio"))
        page = app.build(pipeline, folder / "made", "tiny")
        app.launch(page, "127.0.0.1", None, prevent_thread_lock=True)
        yield pipeline, page.local_url
        page.close()


@pytest.mark.slow
def test_the_page_samples_what_the_pipeline_does(served, film, tmp_path):
    pipeline, url = served
    with chromium.Page(tmp_path / "profile") as page:
        page.send("Page.navigate", url=url)
        page.wait("document.querySelector('#start')")

        # What cannot be read is one line that names the file as it was uploaded.
        broken = tmp_path / "broken.mp4"
        broken.write_bytes(b"no video")
        page.upload("#given_rgb input[type=file]", broken)
        page.wait("document.querySelector('#given_rgb').innerText.includes('broken')")
        page.run(TICK.format("rgb"))  # from RGB and depth to depth alone
        page.run(START)
        page.wait("document.querySelector('.toast-body.error')")
        told = page.run("document.querySelector('.toast-body.error').innerText").splitlines()
        (line,) = [line for line in told if "broken" in line]
        assert line.startswith("broken.mp4: does not decode") and str(tmp_path) not in line

        # Estimation of an uploaded video; all of it comes from this computer.
        page.run("document.querySelector('#given_rgb button[aria-label=\"Clear\"]').click()")
        page.wait("document.querySelector('#given_rgb input[type=file]')")
        page.upload("#given_rgb input[type=file]", film)
        page.wait("document.querySelector('#given_rgb').innerText.includes('film')")
        page.run("document.querySelector('input[aria-label=Preset]').focus()")
        page.wait(CHOICE)
        page.run(f"{CHOICE}.dispatchEvent(new MouseEvent('mousedown', {{bubbles: true}}))")
        page.wait("[...document.querySelectorAll('input[type=number]')].some(i => i.value == '1')")
        page.run(START)
        page.wait(f"{STATUS}.includes('frames of')")
        assert "5 frames of 32×32 at 8 frames/s" in page.run(STATUS)
        assert "1 step of euler" in page.run(STATUS)
        assert "rgb: 5 frames of film.mp4, 64×48 scaled" in page.run(STATUS)
        players = "[...document.querySelectorAll('video')].filter(v => v.videoWidth == 32)"
        page.wait(f"{players}.length == 2")
        hosts = "performance.getEntriesByType('resource').map(r => new URL(r.name).origin)"
        assert set(page.run(hosts)) == {url.rstrip("/")}
        links = dict(
            page.run("[...document.querySelectorAll('#files a')].map(a => [a.download, a.href])")
        )
        assert links.keys() >= {"rgb.mp4", "depth.mp4", "depth.npz", "sample.json"}
        with urllib.request.urlopen(links["depth.npz"]) as answer:
            arrays = np.load(io.BytesIO(answer.read()))
        page.screenshot(tmp_path / "page.png")
    expected = pipeline(
        app.PROMPT, given={"rgb": str(film)}, wanted=("depth",), **PRESETS["one_pass"]
    )
    np.testing.assert_allclose(
        arrays["depth"], expected.arrays("depth")["depth"], rtol=1e-4, atol=1e-4
    )
    assert (tmp_path / "page.png").stat().st_size > 10_000
