"""Searches over several runs: the highest rate under an SLO, sweeps over rates and shapes."""
