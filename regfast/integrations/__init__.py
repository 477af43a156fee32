"""regfast's targets and losses in other libraries' training loops: `integrations.timm`, `integrations.huggingface`."""
