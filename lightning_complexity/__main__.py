"""``python -m lightning_complexity``."""

from lightning_complexity.cli import main

if __name__ == "__main__":
    main()
