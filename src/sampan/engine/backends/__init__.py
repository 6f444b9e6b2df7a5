"""What differs between kinds of isolation, one module each; nobody outside asks which it is."""
