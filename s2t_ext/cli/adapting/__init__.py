"""What `adapt` reads and writes beside the folders of the other commands."""
