"""The four published systems that koosh grew from, each measured against its own claims."""
