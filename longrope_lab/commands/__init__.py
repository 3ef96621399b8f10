"""What the command `longrope-lab` does with models, and the options of all its actions."""
