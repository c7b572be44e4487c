"""Training: the models this project makes itself. `eco_eval` never imports it."""
