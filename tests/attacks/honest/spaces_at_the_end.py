# ruff: noqa
# tries: leaves spaces at the ends of lines
# reference: {"stdin_cases": [{"stdin": "", "stdout": "1 2 3\n4\n"}]}

print("1 2 3 \n4\n\n")
