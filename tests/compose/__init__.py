"""The production shape, run for real: images built, containers started, a PACS beside them, each part restarted under load."""
