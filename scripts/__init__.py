"""The scripts: one job per file, in rooms by where a thing runs and what for (README.md)."""
