"""How `dynamicworld` finds, dates, places and splits its label tiles, and reads their files."""
