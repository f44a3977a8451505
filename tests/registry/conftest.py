"""What tests of registries share."""
from __future__ import annotations

import pytest

from registry.servers import Certificates, certificates


@pytest.fixture(scope="session")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """For servers on 127.0.0.1."""
    return certificates(tmp_path_factory.mktemp("certificates"))
