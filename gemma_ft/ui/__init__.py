"""The page: tabs, presenters and what the browser runs. Never imports torch."""

from gemma_ft.ui.quick_import import without_stubs

with without_stubs():
    import gradio as gradio
