"""The parts of the comparison report: loading a run folder, findings, charts, examples with coloured tokens, tables, the page."""
