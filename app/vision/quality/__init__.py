"""Quality of faces, by measures named after ISO/IEC 29794-5."""
