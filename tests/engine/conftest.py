import pytest

import morse_engine
from models import randomised, tiny_unet
from morse_engine import Dot


@pytest.fixture(scope="module")
def models():
    unet = tiny_unet()
    return unet, randomised(Dot(unet))


@pytest.fixture(scope="module")
def sampler(models):
    return morse_engine.compile(*models, plan="-.")
