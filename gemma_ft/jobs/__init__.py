"""Starting, watching and stopping runs as processes."""
