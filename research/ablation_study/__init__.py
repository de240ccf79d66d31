"""The machinery of research/ablations.py: plan, runs, results, statistics, document."""
