"""The online half of koosh: the wire, the files, the scanner's words; no mathematics."""
