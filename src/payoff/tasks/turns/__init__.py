"""Interactive tasks: the policy writes a turn, an environment answers with text; `docs/turns.md` says how they are used."""
