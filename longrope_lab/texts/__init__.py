"""Documents: where their texts come from, and their token ids."""
