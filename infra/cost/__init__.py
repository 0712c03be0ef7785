"""The cost of a thousand photos, and how it compares with Rekognition's."""
