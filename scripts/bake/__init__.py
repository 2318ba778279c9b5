"""The host side of an image: base disk, stage, Packer, boot, tests, packed files."""
