"""Quality of faces, by measures with the names of ISO/IEC 29794-5."""
