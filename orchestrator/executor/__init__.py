"""Where the jobs run: in this process, or on Ray through Ray Tune."""
