"""What several tests use: networks, data, files of engines, and independent references. Tests import no tests."""
