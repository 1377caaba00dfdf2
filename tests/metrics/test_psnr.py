import jax
import numpy as np
import pytest

from unityvideo_jax.metrics.psnr import psnr


def test_an_error_of_a_tenth_of_the_range_is_20_db():
    values = np.array([0.04, 4.0, 0.0])
    np.testing.assert_allclose(psnr(values), [20.0, 0.0, 106.0206], rtol=1e-6)
    np.testing.assert_allclose(jax.jit(psnr)(values), psnr(values), rtol=1e-6)
    assert psnr(0.04) == pytest.approx(20.0)
