"""What networks are compared with, and the fallback where none can run."""
