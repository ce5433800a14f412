"""The commands: the run of a study, its terminal and its logs."""
