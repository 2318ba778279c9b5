"""The Resource Manager stack: its form and its zip."""
