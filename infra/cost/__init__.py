"""What a thousand photos cost, and how that compares with Rekognition."""
