#!/usr/bin/env bash
# One sandbox from its claim to its release: a program drives it over REST, a person works in the same kernel in JupyterLab.
#
#     make run                                                        # in another terminal: it prints address and token
#     URL=http://127.0.0.1:8888 TOKEN=... examples/walkthrough.sh
#
# It leaves plot.png in the current directory. Needs curl 7.83 or newer, and a server without a base URL.
set -euo pipefail
: "${URL:?the address of the server}" "${TOKEN:?its token}"
URL=${URL%/}
NOTEBOOK=walkthrough.ipynb
DATA=$(dirname "$0")/data/rainfall.csv

ask() { curl -sS --fail-with-body -H "Authorization: token $TOKEN" "$@"; }
located() { ask -o /dev/null -w '%header{location}' "$@"; }
run() { ask -H 'Accept: application/x-ndjson' -d "$1" "$URL$CONTEXT/executions"; }

echo "1. Claim a sandbox for half an hour; whatever happens from here on, it is released."
SANDBOX=$(located -d '{"timeout_s": 1800, "metadata": {"for": "the walk-through"}}' "$URL/api/sandboxes")
trap 'ask -X DELETE "$URL$SANDBOX"' EXIT

echo "2. Bring a file, and run code. What it prints comes as it goes on, a line of JSON for each event."
ask -X PUT --data-binary @"$DATA" -o /dev/null "$URL$SANDBOX/files/rainfall.csv"
CONTEXT=$(located -d '{"cwd": "/sandbox"}' "$URL$SANDBOX/contexts")
run '{"code": "import pandas\nrain = pandas.read_csv(\"rainfall.csv\")\nprint(len(rain), \"rows\")\ntown = \"Elmford\""}'

echo "3. The context is a Jupyter kernel. Give it a notebook, so that JupyterLab opens that with this kernel."
ask -o /dev/null "$URL/api/sessions" -d "{\"path\": \"$NOTEBOOK\", \"name\": \"$NOTEBOOK\", \"type\": \"notebook\",
    \"kernel\": {\"id\": \"${CONTEXT##*/}\"}}"
echo "   Open $URL/lab/tree/$NOTEBOOK and run its cells: they know what was run here. Then press Enter here."
read -r

echo "4. Plot what is there now: the notebook may have chosen another town."
run '{"code": "import matplotlib.pyplot as plt\nrain[rain.town == town].plot.bar(x=\"month\", y=\"rain_mm\", title=town)\nplt.savefig(\"plot.png\")\nplt.close()\nprint(\"plotted\", town)"}'

echo "5. Export the plot. The sandbox ends with this script, the notebook's kernel with it."
ask -o plot.png "$URL$SANDBOX/files/plot.png?download=1"
