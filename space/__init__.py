"""The Gradio app, laid out as a Hugging Face Space, and the checkpoints that it serves by default."""
