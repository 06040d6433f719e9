"""What is around the mathematics: files, pictures, the machine, the clock."""
