"""Every situation of the table: what the checker says beside what it should say.

python tests/situation_table.py            # all
python tests/situation_table.py norm nan   # those whose name holds one of these words
"""

import sys
import time
from pathlib import Path

from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).parent.parent))

from funcbackprop.check.result import FINDINGS
from tests.situations import SITUATIONS
from tests.test_situations import expected_verdicts, mistakes


def row(name):
    build, thread = SITUATIONS[name]
    start = time.perf_counter()
    situation = build()
    wrong, report = mistakes(situation)
    expected = expected_verdicts(situation, report)
    said = sorted({leaf.verdict for leaf in report.leaves})
    kind = "finding" if set(expected.values()) & set(FINDINGS) else "guard"
    seconds = time.perf_counter() - start
    verdicts = ", ".join(sorted(set(expected.values())))
    return name, thread, kind, verdicts, ", ".join(said), "; ".join(wrong) or "right", seconds


if __name__ == "__main__":
    words = sys.argv[1:]
    names = [n for n in SITUATIONS if not words or any(w in n for w in words)]
    rows = [row(name) for name in names]
    headers = ("situation", "report", "kind", "expected", "said", "", "s")
    print(tabulate(rows, headers, floatfmt=".1f"))
    right = sum(r[5] == "right" for r in rows)
    findings = sum(r[2] == "finding" for r in rows)
    reported = sum(bool(r[1]) for r in rows)
    print(
        f"{right} of {len(rows)} right; {findings} findings and {len(rows) - findings} guards; "
        f"{reported} reported by users"
    )
