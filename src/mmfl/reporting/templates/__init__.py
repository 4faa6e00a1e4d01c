"""The pages: one of results, one of what was inspected, and the style of both."""
