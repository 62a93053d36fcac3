"""Side-by-side runs against peers; each is `python -m benchmarks.NAME [--quick] [--json FILE]`."""
