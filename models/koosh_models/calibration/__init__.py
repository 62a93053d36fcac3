"""What is estimated from the data before a reconstruction: density weights, noise, coils, delays."""
