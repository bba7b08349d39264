"""A model's loss, and the quality of the text it writes."""
