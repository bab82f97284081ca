"""Plans of load tests: scenarios, arrivals, traces and inputs."""
