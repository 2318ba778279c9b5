"""This machine: packages, environments, tools, and files that are made from others."""
