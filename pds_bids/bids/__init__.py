"""What exists on disk, and how what we write is named."""
