"""Results of stages by content key, and the folder of a study."""
