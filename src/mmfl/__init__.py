"""Multi-modal federated learning for remote sensing."""
