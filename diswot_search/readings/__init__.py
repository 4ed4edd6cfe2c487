"""What is read off one network on one probe, each pass once."""
