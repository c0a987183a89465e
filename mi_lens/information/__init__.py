"""What states say of the answer: of one trace, and across problems."""
