"""Numbers of a rotary embedding: specs, scalings, formulas, schedules, bounds. Needs numpy alone."""
