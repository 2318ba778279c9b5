"""The parts of `scripts/train_demo.py`: corpus, tokenizer, network and GGUF export of the demo model."""
