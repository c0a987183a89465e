"""How much states tell about the answer: within a trace, and across problems."""
