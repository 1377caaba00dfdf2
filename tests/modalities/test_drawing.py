import numpy as np

from unityvideo_jax.modalities import drawing, segmentation


def test_labels_of_partners_share_a_colour():
    truth = np.array([[[1, 1, 5, 5, 0]]])
    prediction = np.array([[[40, 40, 9, 0, 7]]])
    matched, renumbered = segmentation.match_labels(prediction, truth)
    np.testing.assert_array_equal(renumbered, [[[1, 1, 2, 2, 0]]])
    np.testing.assert_array_equal(matched, [[[1, 1, 2, 0, 3]]])
    image = drawing.label_errors(matched, renumbered)[0, 0]
    np.testing.assert_array_equal(image[3], drawing.MISSED)
    np.testing.assert_array_equal(image[4], drawing.INVENTED)
    heat = drawing.heat(np.array([[[0.0, 1.0, 9.0, np.nan]]]), 1.0)[0, 0]
    assert heat[0].sum() < 20 and (heat[1] == heat[2]).all() and (heat[3] == 90).all()
