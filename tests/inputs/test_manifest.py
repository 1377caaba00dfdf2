import numpy as np
import pytest
import stand_ins
from PIL import Image

from unityvideo_jax import media
from unityvideo_jax.errors import UserError
from unityvideo_jax.inputs.manifest import ManifestSource

MODALITIES = ("rgb", "depth", "flow")
TARGET = dict(num_frames=5, height=16, width=32)


def _solid(path, colour, frames=7, height=32, width=64):
    video = np.broadcast_to(np.array(colour, np.uint8), (frames, height, width, 3)).copy()
    media.write_video(path, video, 8.0)


@pytest.fixture
def table(tmp_path):
    """Three rows: drawn flow under the release's name, exact depth, and one video drawn twice."""
    for n in range(3):
        _solid(tmp_path / f"{n}.mp4", (60 * n, 40, 200))
        _solid(tmp_path / f"flow{n}.mp4", (200, 60 * n, 40), frames=6)
        depth = stand_ins.clip(n, 7, 32, 64)["depth"]
        np.savez(tmp_path / f"{n}.npz", depth=depth)
    path = tmp_path / "clips.csv"
    path.write_text(
        "video,prompt,depth,raft,depth_prompt\n"
        f'{tmp_path}/0.mp4,"A room, and a ""door"".",0.npz,flow0.mp4,\n'
        "1.mp4,Two.,1.npz,flow1.mp4,how far\n"
        "2.mp4,Three.,2.npz,flow2.mp4,\n"
    )
    return path


def test_rows_become_clips(table):
    source = ManifestSource(table, MODALITIES, **TARGET)
    assert list(source.keys) == ["00000002-0", "00000003-1", "00000004-2"]
    assert source.fps == 8.0
    batch = source.load([0, 1, 2], MODALITIES)
    assert batch.texts["rgb"] == ['A room, and a "door".', "Two.", "Three."]
    assert batch.texts["depth"][1] == "how far" != batch.texts["depth"][0]
    for n in range(3):
        colour = np.array((200, 60 * n, 40)) / 127.5 - 1
        # H.264 changes a colour by a few of 255 levels.
        np.testing.assert_allclose(batch.videos["flow"][n].mean((0, 1, 2)), colour, atol=4 / 127.5)
    bounds = batch.sides["depth"]["bounds"]
    for n in range(3):
        disparity = 1 / stand_ins.clip(n, 7, 32, 64)["depth"][:5, 1::2, 1::2]
        np.testing.assert_allclose(bounds[n], (disparity.min(), disparity.max()), rtol=1e-5)


def test_identities_follow_the_content(table):
    def identities(modality):
        source = ManifestSource(table, MODALITIES, **TARGET)
        return [source.identity(key, modality) for key in source.keys]

    rgb, depth = identities("rgb"), identities("depth")
    table.write_text(table.read_text().replace("Two.", "2."))
    assert [a == b for a, b in zip(rgb, identities("rgb"), strict=True)] == [True, False, True]
    assert identities("depth") == depth
    # A row that is deleted changes the line numbers of those below, not what they hold.
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], *lines[2:]]))
    assert identities("depth") == depth[1:]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("video,", "film,", "unknown column 'film'; known: video, prompt"),
        ("video,prompt,depth,raft", "prompt,depth,raft", "lacks the column video"),
        ("raft,", "video,", "two columns are named 'video'"),
        ("raft,", "rgb,", "two columns of one modality"),
        ("Two.", "Two, too.", "line 3: 6 fields where the header has 5; quote"),
        ("Two.", "", "line 3: no prompt"),
        ("Two.", '"Two "2"."', "line 3: not CSV .*double a quote"),
        ("Two.", '"Two.', "line 3: not CSV .*close every quote"),
        (",", ";", "clips.csv: separated by semicolons"),
        (",", "\t", "clips.csv: separated by tabs"),
        ("raft,", "", "lacks the column flow"),
        ("1.mp4,Two", "9.mp4,Two", "line 3: .*9.mp4: no such file of rgb"),
        ("1.npz", "", "line 3: no file of depth"),
        ("flow2.mp4", "0.npz", None),
        ("flow1.mp4", "broken.mp4", "line 3: flow: .*does not decode as video"),
        ("flow1.mp4", "short.mp4", "line 3: flow has 4 frames, rgb 7"),
        ("flow1.mp4", "square.mp4", "line 3: flow is 64x64, rgb 32x64, of another aspect"),
        ("flow1.mp4", "pictures", "line 3: flow is 64x64, rgb 32x64, of another aspect"),
    ],
)
def test_bad_rows_are_named(table, old, new, message):
    (table.parent / "broken.mp4").write_bytes((table.parent / "1.mp4").read_bytes()[:300])
    _solid(table.parent / "short.mp4", (1, 2, 3), frames=4)
    _solid(table.parent / "square.mp4", (1, 2, 3), height=64)
    (table.parent / "pictures").mkdir()
    for n in range(7):
        Image.new("RGB", (64, 64)).save(table.parent / "pictures" / f"{n}.png")
    table.write_text(table.read_text().replace(old, new))
    if message:
        with pytest.raises(UserError, match=message):
            ManifestSource(table, MODALITIES, **TARGET)
    else:  # only reading the arrays tells that these are not flow
        with pytest.raises(UserError, match=r"0.npz: lacks flow"):
            ManifestSource(table, MODALITIES, **TARGET).load([2], MODALITIES)


def test_drawings_of_one_aspect_are_scaled_and_rows_that_repeat_are_said(table, capsys):
    _solid(table.parent / "flow1.mp4", (200, 60, 40), frames=6, height=64, width=126)
    table.write_text(table.read_text() + "2.mp4 ,Three.,2.npz,flow2.mp4,\n")
    batch = ManifestSource(table, MODALITIES, **TARGET).load([1, 2, 3], MODALITIES)
    assert batch.videos["flow"].shape == (3, 5, 16, 32, 3)
    assert f"{table}, line 5: as line 4; both become clips" in capsys.readouterr().out


def test_bad_rows_can_be_set_aside(table):
    table.write_text(table.read_text().replace("1.mp4,Two", "9.mp4,Two"))
    source = ManifestSource(table, MODALITIES, allow_faults=True, **TARGET)
    assert list(source.keys) == ["00000002-0", "00000004-2"]
    (fault,) = source.faults
    assert fault.what.endswith("line 3") and "no such file" in fault.reason
    table.write_text("video,prompt,depth,raft\n,,,\n")
    with pytest.raises(UserError, match="line 2: no prompt"):
        ManifestSource(table, MODALITIES, allow_faults=True, **TARGET)
