"""Who holds what: scenarios, modality assignments, the manifest."""
