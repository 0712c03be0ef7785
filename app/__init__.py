"""The face worker: photos of a gallery in, people out."""
