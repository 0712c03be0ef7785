"""A module for each format of pictures: what a file's header says, and its pixels.

Each has `read_outline(data)`, which parses the header without decoding a pixel, and `decode(data, outline, …)`, which
gives the pixels as they are stored (not turned) in sRGB. Both raise BadPhoto where the file itself is at fault, and may
raise whatever their library raises; app/vision/decode.py makes a BadPhoto of that.
"""
