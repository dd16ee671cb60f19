"""The failure bench: experiments F01 to F43 as data, each with an oracle and a negative control (docs/reliability.md)."""
