"""`make viewers`: what real viewers show of the service's results, with pictures (docs/viewers.md)."""
