"""What a script and the command line both call: resolve sources, prepare, run, collect results, report."""
