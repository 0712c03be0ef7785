"""Is anything lost or done twice when machines die and networks lie? `python -m benchmarks chaos --help`."""
