"""Pure PyTorch: the definition of right. Runs on any device; readable before fast."""
