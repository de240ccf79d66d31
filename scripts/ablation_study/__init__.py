"""The machinery of scripts/ablations.py: plan, runs, results, statistics, document."""
