"""What is run from a checkout to show and measure qaic_sched; not part of the installed package."""
