"""The teaching demo: an image leaks from a gradient, on a recorded page, on a live page and in a terminal."""
