"""Arrays and affines in, arrays and affines out; nothing here opens a path."""
