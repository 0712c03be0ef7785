"""Is anything lost or done twice when processes are killed and networks fail? `python -m benchmarks chaos --help`."""
