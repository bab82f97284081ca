"""Several runs: the highest rate under an SLO, and sweeps over rates and shapes."""
