"""What this package adds to nerfstudio's viewer."""
