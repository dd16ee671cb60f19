"""What the weights can and can't do, measured: cohorts, baselines, statistics, heat-map truth, tables and plots."""
