"""The round loop, local training, data as clients see it, checkpoints."""
