"""What every engine does, whichever it is."""
