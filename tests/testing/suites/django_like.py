"""unittest.TestCase, as Django's tests are: no fixture as an argument."""

import os
import unittest
from typing import ClassVar

import pytest

import ssmnet
from ssmnet.testing import SsmLoopback

TARGET = "i-0123456789abcdef0"


@pytest.mark.usefixtures("ssm_loopback")
class ByFixture(unittest.TestCase):
    def test_a_command(self) -> None:
        with ssmnet.blocking.connect(TARGET) as target:
            assert target.run("echo", "a").stdout == b"a\n"


class ByAttribute(unittest.TestCase):
    far_end: SsmLoopback

    @pytest.fixture(autouse=True)
    def _far_end(self, ssm_loopback: SsmLoopback) -> None:
        self.far_end = ssm_loopback

    def test_an_error(self) -> None:
        self.far_end.fail_next("AccessDeniedException")
        with pytest.raises(ssmnet.AccessDenied), ssmnet.blocking.connect(TARGET) as target:
            target.run("true")


class WithoutFixtures(unittest.TestCase):
    """One far end for all tests of the class; this needs no pytest."""

    far_end: ClassVar[SsmLoopback]

    @classmethod
    def setUpClass(cls) -> None:
        cls.far_end = cls.enterClassContext(SsmLoopback())
        cls.enterClassContext(cls.far_end.in_environment())

    def test_one(self) -> None:
        with ssmnet.blocking.connect(TARGET) as target:
            assert target.run("echo", "a").stdout == b"a\n"

    def test_two(self) -> None:
        assert os.environ["AWS_ENDPOINT_URL_SSM"] == self.far_end.endpoint_url
