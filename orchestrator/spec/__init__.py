"""Study files: what may be written in one, and how it is read."""
