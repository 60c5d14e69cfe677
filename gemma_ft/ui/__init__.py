"""The page: tabs, presenters and what the browser runs. Never imports torch."""
