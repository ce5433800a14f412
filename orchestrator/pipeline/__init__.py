"""The stages of a trial on a worker, each through the store."""
