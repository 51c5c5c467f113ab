import pytest

from flatmeter.config.device import check_device


@pytest.mark.parametrize("name", ["auto", "cpu", "cuda", "cuda:3"])
def test_names_of_devices(name):
    assert check_device(name) == name


@pytest.mark.parametrize("name", ["", "gpu", "cuda:", "cuda:x", "cpu:0", "cuda:0\n"])
def test_other_names(name):
    with pytest.raises(ValueError, match="'cuda:N'"):
        check_device(name)
