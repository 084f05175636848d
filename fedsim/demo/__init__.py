"""The teaching demo of an image leaking from a gradient: a recorded page, a live page and a terminal."""
