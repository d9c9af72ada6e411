"""Controls that the models add to nerfstudio's viewer."""
