"""Library sets: llama.cpp from the pinned sdist, with our changes to it, for the image and for this machine."""
