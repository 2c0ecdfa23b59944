"""A Dify that needs no Dify: behaves like the recorded servers, breaks on demand, and keeps a ledger of what was paid.

Used by our tests and the demo; shipped, so that you can test your own batches against it.
"""

from rowmill.testing.fake_dify.app import FakeDify
from rowmill.testing.fake_dify.apps import FakeApp, control, default_apps
from rowmill.testing.fake_dify.faults import Fault
from rowmill.testing.fake_dify.profiles import PROFILES, Profile
from rowmill.testing.fake_dify.runs import Ledger, LedgerRun
from rowmill.testing.fake_dify.server import Serving, run_forever, serve

__all__ = [
    "PROFILES", "FakeApp", "FakeDify", "Fault", "Ledger", "LedgerRun", "Profile", "Serving", "control", "default_apps",
    "run_forever", "serve",
]  # fmt: skip
