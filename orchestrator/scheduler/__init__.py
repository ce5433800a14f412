"""What runs next, and what is decided when a result arrives."""
