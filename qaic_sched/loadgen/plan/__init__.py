"""What to send and when: scenarios, arrivals, traces and inputs."""
