"""One page of results: the paper's figures beside ours, and whether each finding showed."""
