"""OpenSim's files of one person: the model (`.osim`), its motion (`.mot`) and markers (`.trc`)."""
