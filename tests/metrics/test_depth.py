import numpy as np
import pytest
import scipy.optimize

from unityvideo_jax.errors import UserError
from unityvideo_jax.metrics import depth

RNG = np.random.default_rng(0)


def video(shape=(3, 5, 6), low=1.0, high=10.0):
    return RNG.uniform(low, high, shape).astype(np.float32)


def compute(prediction, truth):
    metric = depth.DepthMetric()
    metric.update({"depth": prediction}, {"depth": truth}, "clip 0")
    return metric.compute()


def test_toy_array_reads_differently_under_each_alignment(parity):
    """Truth 1, 2, 4, 4 m against 1, 2, 3, 5 by hand: the alignment decides the number."""
    truth = np.array([[[1.0, 2.0]], [[4.0, 4.0]]], np.float32)
    prediction = np.array([[[1.0, 2.0]], [[3.0, 5.0]]], np.float32)
    results = compute(prediction, truth)
    # Scale by frame: frame 0 is exact. In frame 1, |3s - 4| + |5s - 4| has its kink at s = 4/5:
    # errors 1.6 and 0 of 4.
    assert results["depth/depth_scale_frame/abs_rel"] == pytest.approx(1.6 / 4 / 4, abs=1e-3)
    # Scale by video: |s-1| + |2s-2| + |3s-4| + |5s-4| is least at s = 1, errors 1/4 and 1/4.
    assert results["depth/depth_scale_video/abs_rel"] == pytest.approx(0.125, abs=1e-3)
    # Disparity 1, 1/2, 1/3, 1/5 -> 1, 1/2, 1/4, 1/4 by least squares with numpy's solver.
    x = 1.0 / prediction.ravel().astype(np.float64)
    a, b = np.polyfit(x, 1.0 / truth.ravel(), 1)
    aligned = 1.0 / (a * x + b)
    expected = (np.abs(aligned - truth.ravel()) / truth.ravel()).reshape(2, 2).mean(1).mean()
    headline = results["depth/disparity_scale_shift_video/abs_rel"]
    parity("depth, headline AbsRel", "numpy polyfit", headline, expected, bound=1e-9)
    assert len({round(results[f"depth/{a}/abs_rel"], 3) for a in depth.ALIGNMENTS}) == 3


def test_scale_and_shift_fit_equals_numpy_least_squares(parity):
    x, y = RNG.normal(size=50), RNG.normal(size=50)
    expected = np.linalg.lstsq(np.stack([x, np.ones(50)], 1), y, rcond=None)[0]
    found = depth.fit_scale_shift([x[:20], x[20:]], [y[:20], y[20:]])
    parity("depth, scale and shift", "numpy lstsq", found, expected, bound=1e-10)


def test_weiszfeld_reaches_the_least_absolute_deviation(parity):
    x, y = RNG.uniform(1, 5, 101), RNG.uniform(1, 5, 101)

    def cost(scale):
        return np.abs(scale * x - y).sum()

    best = scipy.optimize.minimize_scalar(cost, bounds=(0.01, 10), method="bounded").fun
    # Ten steps, the protocol's number, come near; the iteration itself goes to the optimum.
    ten = depth.fit_scale_l1([x], [y])
    parity("depth, L1 scale, 10 steps: cost", "scipy minimize_scalar", cost(ten), best, bound=1e-2)
    many = depth.fit_scale_l1([x[:9], x[9:]], [y[:9], y[9:]], steps=2000)
    name = "depth, L1 scale, 2000 steps: cost"
    parity(name, "scipy minimize_scalar", cost(many), best, bound=1e-4)


def test_one_weiszfeld_step_by_hand():
    """x = (1, 1), y = (1, 3): start at 2, both weights 1, so the step stays at 2."""
    assert depth.fit_scale_l1([np.array([1.0, 1.0])], [np.array([1.0, 3.0])], 1) == pytest.approx(
        2.0
    )
    # x = (1, 2), y = (1, 4): start 5/3; weights 3/2 and 3/2; next (1 + 8) / (1 + 4).
    assert depth.fit_scale_l1([np.array([1.0, 2.0])], [np.array([1.0, 4.0])], 1) == pytest.approx(
        1.8
    )


def test_a_weiszfeld_step_over_more_values_than_are_added_up_at_once():
    frames = [RNG.uniform(1, 5, (2, 2 * depth.CHUNK + n)).astype(np.float32) for n in (0, 7)]
    x, y = np.concatenate(frames, axis=1).astype(np.float64)
    weight = x / (np.abs(y.mean() / x.mean() * x - y) + 1e-8)
    expected = (weight @ y) / (weight @ x)
    found = depth.fit_scale_l1([f[0] for f in frames], [f[1] for f in frames], steps=1)
    assert found == pytest.approx(expected, rel=1e-9)


def test_right_up_to_the_alignment_is_perfect():
    truth = video()
    affine = 1.0 / (0.3 / truth + 0.05)
    results = compute(affine.astype(np.float32), truth)
    assert results["depth/disparity_scale_shift_video/abs_rel"] < 1e-5
    assert results["depth/disparity_scale_shift_video/delta_1"] == 1.0
    assert results["depth/depth_scale_video/abs_rel"] > 0.05
    scaled = compute(7.0 * truth, truth)
    assert scaled["depth/depth_scale_video/abs_rel"] < 1e-6
    by_frame = truth * np.array([1.0, 2.0, 0.5], np.float32)[:, None, None]
    scaled = compute(by_frame, truth)
    assert scaled["depth/depth_scale_frame/abs_rel"] < 1e-6
    assert scaled["depth/depth_scale_video/abs_rel"] > 0.1


def test_deltas_count_ratios_in_both_directions():
    scores = depth.pixel_scores(np.array([1.2, 0.7, 1.8, 2.5]), np.ones(4))
    np.testing.assert_array_equal(scores["delta_1"], [1, 0, 0, 0])
    np.testing.assert_array_equal(scores["delta_2"], [1, 1, 0, 0])
    np.testing.assert_array_equal(scores["delta_3"], [1, 1, 1, 0])
    np.testing.assert_allclose(scores["abs_rel"], [0.2, 0.3, 0.8, 1.5])


@pytest.mark.parametrize("alignment", depth.ALIGNMENTS)
def test_numbers_of_an_aligned_clip_are_torchmetrics(parity, alignment):
    """AbsRel and RMSE of aligned values, where all pixels and frames count alike."""
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("torchmetrics.functional")
    truth, prediction = video((1, 20, 30)), video((1, 20, 30))
    aligned = torch.from_numpy(depth.aligner(prediction, truth, alignment)(0))
    target = torch.from_numpy(truth[0].astype(np.float64))
    results = compute(prediction, truth)
    expected = functional.mean_absolute_percentage_error(aligned, target)
    found = results[f"depth/{alignment}/abs_rel"]
    parity("depth, AbsRel of aligned depth", "torchmetrics", found, expected, bound=1e-12)
    expected = functional.mean_squared_error(aligned.clamp(max=70.0), target, squared=False)
    found = results[f"depth/{alignment}/rmse"]
    parity("depth, RMSE of aligned depth", "torchmetrics", found, expected, bound=1e-12)


def test_sky_and_far_pixels_do_not_count():
    truth = video((2, 4, 4))
    prediction = video((2, 4, 4))
    clean = compute(prediction[:, :, 1:], truth[:, :, 1:])
    for value in (np.inf, 70.0, 1e-3, 500.0):
        truth[:, :, 0] = value
        prediction[:, :, 0] = 3.0
        masked = compute(prediction, truth)
        assert masked == pytest.approx(clean)


def test_headline_averages_frames_and_the_others_pixels():
    """Frame 0 has one valid pixel, frame 1 three; all errors sit in frame 0."""
    truth = np.full((2, 1, 3), np.inf, np.float32)
    truth[0, 0, 0], truth[1, 0] = 2.0, [1.0, 2.0, 4.0]
    prediction = np.array([[[1.0, 1.0, 1.0]], [[1.0, 2.0, 4.0]]], np.float32)
    frame = depth.aligner(prediction, truth, "disparity_scale_shift_video")
    aligned = np.stack([frame(0), frame(1)])
    errors = np.abs(aligned - truth) / np.where(np.isinf(truth), 1.0, truth)
    expected = (errors[0, 0, 0] + errors[1, 0].mean()) / 2
    results = compute(prediction, truth)
    assert results["depth/disparity_scale_shift_video/abs_rel"] == pytest.approx(expected)
    # One scale for the video is 1 (three of four pixels agree): error 1/2 on one pixel of four.
    assert results["depth/depth_scale_video/abs_rel"] == pytest.approx(0.125, abs=1e-3)


def test_videos_are_weighted_as_the_protocol_says():
    small, large = video((1, 2, 2)), video((1, 8, 8))
    bad_small, bad_large = video((1, 2, 2)), video((1, 8, 8))
    metric = depth.DepthMetric()
    metric.update({"depth": bad_small}, {"depth": small}, "small")
    metric.update({"depth": bad_large}, {"depth": large}, "large")
    both = metric.compute()
    one, two = compute(bad_small, small), compute(bad_large, large)
    headline = "depth/disparity_scale_shift_video/abs_rel"
    assert both[headline] == pytest.approx((one[headline] + two[headline]) / 2)
    weighted = "depth/depth_scale_video/abs_rel"
    assert both[weighted] == pytest.approx((4 * one[weighted] + 64 * two[weighted]) / 68)


def test_constant_prediction_falls_back_to_the_mean_disparity():
    truth = video()
    results = compute(np.full_like(truth, 3.0), truth)
    guess = 1.0 / (1.0 / truth.astype(np.float64)).mean()
    expected = (np.abs(guess - truth) / truth).mean(axis=(1, 2)).mean()
    assert results["depth/disparity_scale_shift_video/abs_rel"] == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(list(results.values())).all()


def test_infinite_and_constant_depth_stay_finite():
    truth = video()
    prediction = truth.copy()
    prediction[:, 0] = np.inf
    assert np.isfinite(list(compute(prediction, truth).values())).all()
    assert np.isfinite(list(compute(np.full_like(truth, np.inf), truth).values())).all()
    flat = np.full_like(truth, 5.0)
    assert compute(prediction, flat)["depth/disparity_scale_shift_video/abs_rel"] < 1e-6


def test_video_of_sky_is_counted_not_scored():
    metric = depth.DepthMetric()
    sky = np.full((2, 3, 3), np.inf, np.float32)
    metric.update({"depth": sky}, {"depth": sky}, "clip 0")
    with pytest.raises(UserError, match="no clip has anything to score"):
        metric.compute()
    truth = video((2, 3, 3))
    metric.update({"depth": truth}, {"depth": truth}, "clip 1")
    results = metric.compute()
    assert results["depth/videos"] == 1 and results["depth/videos_without_valid_pixels"] == 1


@pytest.mark.parametrize("role", ["predicted", "true"])
def test_nan_is_named(role):
    good, bad = video(), video()
    bad[1, 2, 3] = np.nan
    pair = (bad, good) if role == "predicted" else (good, bad)
    with pytest.raises(UserError, match=rf"clip 0: {role} depth holds NaN, first at \(1, 2, 3\)"):
        compute(*pair)


def test_other_shape_is_named():
    with pytest.raises(UserError, match="score both at one size"):
        compute(video((2, 4, 4)), video((3, 4, 4)))


def test_temporal_error_of_a_flickering_scale():
    """d_t = s_t d*: the signed relative error is s_t - 1 everywhere."""
    truth = video((4, 3, 3))
    scales = np.array([1.0, 1.3, 0.9, 0.9])
    flickering = truth.astype(np.float64) * scales[:, None, None]
    error, pairs = depth.temporal_error(map(depth.relative_error, flickering, truth))
    assert error == pytest.approx((0.3 + 0.4 + 0.0) / 3) and pairs == 27
    # A wrong scale that stays is no flicker; nor is motion of the truth.
    wrong = map(depth.relative_error, 1.7 * truth.astype(np.float64), truth)
    assert depth.temporal_error(wrong)[0] < 1e-12
    results = compute(truth, truth)
    assert results["depth/disparity_scale_shift_video/temporal_error"] < 1e-5


def test_disparity_below_zero_after_the_fit_is_the_farthest_depth_that_counts():
    """As in DepthCrafter's evaluation, where one such pixel would outweigh a whole video."""
    truth = np.full((1, 1, 40), 2.0, np.float32)
    truth[..., 0], truth[..., 1] = 60.0, 40.0
    prediction = truth.copy()
    prediction[..., 0], prediction[..., 1] = np.inf, 8.0
    scale, shift = np.polyfit(1 / prediction.ravel().astype(float), 1 / truth.ravel(), 1)
    assert scale * 0 + shift < 0
    near = 1 / (scale / prediction.ravel()[1:].astype(float) + shift)
    aligned = np.concatenate([[70.0], near])
    expected = np.abs(aligned - truth.ravel()) / truth.ravel()
    results = compute(prediction, truth)
    name = "depth/disparity_scale_shift_video"
    assert results[f"{name}/abs_rel"] == pytest.approx(expected.mean())
    squares = np.square(aligned - truth.ravel())
    assert results[f"{name}/rmse"] == pytest.approx(squares.mean() ** 0.5)


def test_rmse_by_hand():
    truth = np.array([[[1.0, 2.0, 3.0, 4.0]], [[2.0, 2.0, 2.0, 2.0]]], np.float32)
    results = compute(3 * truth, truth)
    assert results["depth/depth_scale_frame/rmse"] < 1e-6
    prediction = truth.copy()
    prediction[0, 0] = [1.0, 2.0, 3.0, 4.8]  # L1: the three exact pixels hold the scale at 1
    results = compute(prediction, truth)
    assert results["depth/depth_scale_video/rmse"] == pytest.approx(0.8 / 8**0.5, abs=1e-3)


def test_single_frame_has_no_temporal_error_and_says_so():
    truth = video((1, 3, 3))
    results = compute(truth, truth)
    assert results["depth/videos_of_one_frame"] == 1
    assert not [key for key in results if key.endswith("temporal_error")]


def test_disparity_given_as_depth_is_refused():
    with pytest.raises(UserError, match=r"values <= 0 \(least 0\)"):
        compute(0 * video(), video())


@pytest.mark.parametrize("factor", [2.0**10, 2.0**-10, 2.0**40])
def test_any_multiple_of_an_estimate_scores_the_same(factor):
    truth, prediction = video(high=60.0), video(high=60.0)
    prediction[0, 0], prediction[1, 0] = np.inf, 200.0  # outside the range, as is much when scaled
    one = compute(prediction, truth)
    assert compute(np.float32(factor) * prediction, truth) == pytest.approx(one, rel=1e-6)
    assert one["depth/depth_scale_video/abs_rel"] > 0.1


def test_limits_in_metres_hold_after_alignment():
    """An estimate in millimetres, right but for one pixel: 80 m, which is read as 70 m."""
    truth = np.linspace(2, 7, 64, dtype=np.float32).reshape(1, 8, 8)
    prediction = 1000 * truth
    prediction[0, 0, 0] = 80_000.0
    results = compute(prediction, truth)
    for alignment in ("depth_scale_video", "depth_scale_frame"):
        assert results[f"depth/{alignment}/abs_rel"] == pytest.approx(68 / 2 / 64, rel=1e-4)


def metres(depth):
    return {"depth": depth, "unit": np.asarray("m")}


def test_estimates_in_metres_are_scored_without_alignment():
    truth = video((2, 5, 6))
    metric = depth.DepthMetric()
    metric.update(metres(np.float32(1.1) * truth), {"depth": truth}, "clip 0")
    results = metric.compute()
    assert results["depth/metric/abs_rel"] == pytest.approx(0.1, rel=1e-5)
    assert results["depth/metric/delta_1"] == 1.0
    expected = np.sqrt(np.square(0.1 * truth.astype(np.float64)).mean(axis=(1, 2))).mean()
    assert results["depth/metric/rmse"] == pytest.approx(expected, rel=1e-5)
    assert results["depth/metric/temporal_error"] < 1e-6
    assert results["depth/metric/videos"] == 1
    # No surface is the farthest depth: (70 - 2) / 2.
    metric = depth.DepthMetric()
    flat = np.full((1, 2, 2), 2.0, np.float32)
    metric.update(metres(np.full_like(flat, np.inf)), {"depth": flat}, "clip 0")
    assert metric.compute()["depth/metric/abs_rel"] == pytest.approx(34.0)


@pytest.mark.parametrize("unit", [{}, {"unit": np.asarray("relative")}])
def test_estimates_of_unknown_scale_have_no_score_in_metres(unit):
    truth = video()
    metric = depth.DepthMetric()
    metric.update({"depth": truth, **unit}, metres(truth), "clip 0")
    results = metric.compute()
    assert results["depth/metric/videos"] == 0 and "depth/metric/abs_rel" not in results
    assert results["depth/depth_scale_video/abs_rel"] < 1e-6


def test_truth_of_unknown_scale_counts_in_medians():
    truth, prediction = video(), video()
    results = []
    for factor in (1.0, 2.0**14):
        metric = depth.DepthMetric()
        scaled = {"depth": np.float32(factor) * truth, "unit": np.asarray("relative")}
        metric.update(metres(prediction), scaled, "clip 0")
        results.append(metric.compute())
    assert results[0] == pytest.approx(results[1], rel=1e-6)
    assert results[0]["depth/metric/videos"] == 0 and results[0]["depth/videos"] == 1


def test_truth_whole_out_of_range_is_a_fault_that_names_the_unit():
    truth = 1000 * video(low=2.0, high=7.0)
    with pytest.raises(UserError, match=r"clip 0: true depth is 2\d+.* to .*no unit is stated"):
        compute(truth, truth)
