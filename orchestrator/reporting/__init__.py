"""The parts of a report: results read and checked, summed up, drawn, laid out."""
