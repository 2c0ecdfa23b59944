"""Hypothesis for all tests: a busy machine is no failure, and CI tries the same examples every time."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile("rowmill", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("rowmill"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "rowmill")
