"""What runs on this machine for a person: service, tests, benchmark, tuning."""
