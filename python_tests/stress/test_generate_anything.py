"""Whatever `generate` is called with, it returns what the reference does.

The same calls every time; S2T_EXT_FUZZ=N tries N new ones of every architecture.
"""

import os
import zlib

import pytest
from architectures import ARCHITECTURES
from generation_cases import cases, check
from hypothesis import HealthCheck, Phase, given, seed, settings

NEW_CALLS = os.environ.get("S2T_EXT_FUZZ")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_any_call_equals_the_reference(name):
    @settings(
        max_examples=int(NEW_CALLS or 16),
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases(name))
    def equals_the_reference(case):
        check(case)

    if NEW_CALLS is None:
        equals_the_reference = seed(zlib.crc32(name.encode()))(equals_the_reference)
    equals_the_reference()
