"""What the tests of images share."""
from __future__ import annotations

import pytest

from containers.features import need


@pytest.fixture
def squashfs_tools() -> None:
    need("squashfs-tools")
