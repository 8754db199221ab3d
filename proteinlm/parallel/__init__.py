"""How a model is spread over processes; the model does not know."""
