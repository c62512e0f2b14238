"""The commands ``study`` and ``worker``."""
