"""What a run is made of: its steps, what decides them, and what is finished already."""
