"""A program for E2B's SDK, run on this machine.

pip install e2b-code-interpreter
jupyter sandbox serve                    # in another terminal; prints the token
export E2B_API_URL=http://127.0.0.1:3874/e2b E2B_SANDBOX_URL=http://127.0.0.1:3874/e2b/sbx E2B_API_KEY=TOKEN
python examples/e2b_sandbox.py
"""

from __future__ import annotations

from e2b_code_interpreter import Sandbox


def main() -> None:
    """Bring a file, compute with it, look at the results, take one away."""
    with Sandbox.create(timeout=120, metadata={"example": "e2b"}) as sandbox:
        sandbox.files.write("prices.csv", "day,price\n1,10\n2,12\n3,11\n")
        sandbox.run_code("import csv; rows = list(csv.DictReader(open('prices.csv')))")
        execution = sandbox.run_code(
            "prices = [int(row['price']) for row in rows]; print(len(prices), 'days'); sum(prices) / len(prices)",
            on_stdout=lambda message: print("said:", message.line.strip()),
        )
        print("mean:", execution.text)
        sandbox.run_code("open('mean.txt', 'w').write(str(sum(prices) / len(prices)))")
        print("file:", sandbox.files.read("mean.txt"))
        print("lines:", sandbox.commands.run("wc -l < prices.csv").stdout.strip())
        print("wrong:", sandbox.run_code("prices[99]").error.name)


if __name__ == "__main__":
    main()
