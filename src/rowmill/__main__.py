"""`rowmill` and `python -m rowmill`."""

from __future__ import annotations

import sys


def main() -> None:
    from rowmill.cli.main import main as run  # noqa: PLC0415 -- so that the import of this module costs nothing

    sys.exit(run())


if __name__ == "__main__":
    main()
