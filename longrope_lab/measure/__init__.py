"""What a scaling is worth: perplexity, needles, benchmarks, statistics, cost."""
