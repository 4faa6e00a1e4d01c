"""What has to be known before anything runs: tasks, bands, descriptions, and how to tell faults."""
