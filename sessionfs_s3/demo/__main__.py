"""``python -m sessionfs_s3.demo``: ends with one line, ``demo: ok …`` or ``demo: FAILED …``, and exit status 0 or 1."""

from __future__ import annotations

import signal
import sys


def main() -> int:
    """Run the demo and return the exit status."""
    # SIGTERM too becomes an exception, so that everything started is ended on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        from sessionfs_s3.demo.stage import run  # takes seconds, in which one may already give up

        last_line = run()
    except KeyboardInterrupt:
        last_line = "demo: FAILED: interrupted"
    except ImportError as error:
        last_line = f"demo: FAILED: {error}"
    except SystemExit as end:
        if not end.code:
            return 0  # --help
        last_line = "demo: FAILED: these are not its options"
    print(last_line, flush=True)
    return 0 if last_line.startswith("demo: ok") else 1


if __name__ == "__main__":
    sys.exit(main())
