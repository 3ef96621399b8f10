"""Interactive explorers: sliders on top of the figures of `plots`. Each returns a widget to be shown by a notebook."""
