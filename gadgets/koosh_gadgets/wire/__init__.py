"""The wire: messages of ISMRMRD streams, read with caps and time limits, written for either dialect."""
