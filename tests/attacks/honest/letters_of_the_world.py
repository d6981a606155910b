# ruff: noqa
# tries: reads and writes letters of many alphabets
# reference: {"stdin_cases": [{"stdin": "żółw 龜 🐢", "stdout": "🐢 龜 żółw"}]}

print(*reversed(input().split()))
