"""Writes tests/gpu_fake/launches.json again, and prints what has changed."""

import json

from simvtp.bench.gpu.step_cases import step_cases
from tests.gpu_fake.fake_step import PACKED, TABLE, fake_step, read_table

before = read_table() if TABLE.exists() else {}
table = {}
for case in step_cases():
    if case.name == PACKED:
        continue
    table[case.name] = fake_step(case).counts()
    was, now = before.get(case.name, {}).get("launches"), table[case.name]["launches"]
    print(f"{case.name}: {now} launches{'' if was == now else f', {was} before'}", flush=True)
TABLE.write_text(json.dumps(table, indent=1) + "\n")
