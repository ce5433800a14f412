"""The plan of a study: its trials, the jobs that they share, and what they need."""
