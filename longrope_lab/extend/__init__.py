"""From a model to one with a longer window: recipes, fine-tuning, plans."""
