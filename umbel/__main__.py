"""`python -m umbel`: the same as the command `umbel`, and what launchers start."""

from umbel.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
