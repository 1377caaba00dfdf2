"""From raw video to annotated clips: small stages with one interface, run in resumable phases."""
