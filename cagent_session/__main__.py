"""``python -m cagent_session`` and ``cagent-session``, which run a program: see ``--help``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the program that the command line names. See ``--help``."""
    # Except for python -P, the first folder is the working directory or that of this command. Take
    # it off before more is imported: it may have modules with the names of others.
    is_safe = bool(getattr(sys.flags, "safe_path", sys.flags.isolated))
    if not is_safe:
        del sys.path[0]
    from cagent_session.running import run  # noqa: PLC0415

    run(sys.argv[1:], is_safe=is_safe)


if __name__ == "__main__":
    main()
