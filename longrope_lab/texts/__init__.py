"""Documents: where texts come from, and their token ids."""
