"""Other libraries' attacks, under their names and arguments, made by regfast's: for people who switch."""
