"""A few lines of a receipt. Usage: told.py RECEIPT"""
import json
import sys

with open(sys.argv[1], encoding="utf-8") as file:
    receipt = json.load(file)
result = receipt["result"]
print("image         ", receipt["image"]["path"])
print("failure       ", result["failure_class"], " cause", result["cause"], " exit code", result["exit_code"])
print("time          ", f"{result['executed_us'] / 1000:.1f} ms to start, {result['ended_us'] / 1e6:.2f} s in all")
print("memory        ", f"{result['max_rss_bytes'] >> 10} KiB in the largest process")
print("left running  ", result["leftovers"], "processes, killed")
for state in ("on", "unavailable"):
    names = [row["name"] for row in receipt["protections"] if row["state"] == state]
    print(f"{state:14}", f"{len(names)} protections" if state == "on" else ", ".join(names) or "none")
