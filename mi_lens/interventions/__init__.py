"""Interventions change a generation: one small file per kind, all behind one protocol."""
