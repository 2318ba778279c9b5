"""The parts of `scripts/models/demo/train.py`: corpus, tokenizer, network and GGUF export of the demo model."""
