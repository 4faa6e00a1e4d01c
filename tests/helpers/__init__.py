"""What several tests need: small data, projects in a folder, servers, references in NumPy."""
