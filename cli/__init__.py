"""The person's side of specexec: commands, options, rendering."""

OWNER = "specexec"
