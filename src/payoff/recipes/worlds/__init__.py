"""What several recipes share: programs and a policy that writes them, and tasks of small control worlds. No file here is a recipe.

The hash of a recipe's code covers every world that it imports.
"""
