"""`mmfl verify`: is a fresh reproduction what was committed? No step imports this package."""
