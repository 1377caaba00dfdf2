"""Lets the tests here import `stand_ins`, whatever pytest's import mode; shards to share."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))


@pytest.fixture(scope="session")
def noise_dir(tmp_path_factory):
    """Finished shards of 10 noise clips; read only."""
    import stand_ins

    path = tmp_path_factory.mktemp("noise")
    stand_ins.prepare_noise(path, 10)
    return path


@pytest.fixture(scope="session")
def other_dir(tmp_path_factory):
    """Finished shards of 7 other clips; read only."""
    import stand_ins

    path = tmp_path_factory.mktemp("other")
    stand_ins.prepare_noise(path, 7, salt=1)
    return path


@pytest.fixture(scope="session")
def sizes_dir(tmp_path_factory):
    """Finished shards of 6 noise clips of each of three sizes; read only."""
    import stand_ins

    path = tmp_path_factory.mktemp("sizes")
    stand_ins.prepare_sizes(path, [(5, 16, 16), (1, 16, 32), (1, 32, 32)])
    return path
